PYTHON_VENV := .venv/bin/python
# threads that wait sleep: on a busy machine spinning ones cost a factor of ten
export OMP_WAIT_POLICY := PASSIVE
TESTS := OMP_NUM_THREADS=1 $(PYTHON_VENV) -m pytest -n 2 --dist worksteal

.PHONY: setup demo demo-det test test-fast versions lock docs

setup:  ## fills .venv (minutes the first time, a moment after that) for the newest Python that works, or for PYTHON=...
	@requirements/setup.sh

demo: setup  ## toy data, training, test: mIoU before and after, and pictures
	@$(PYTHON_VENV) tools/demo.py

demo-det: setup  ## the same for detection: box and mask AP before and after, and pictures
	@$(PYTHON_VENV) tools/demo.py det

test: setup  ## style and tests
	@.venv/bin/ruff check .
	@$(TESTS)

test-fast: setup  ## the tests of the edit-run loop
	@$(TESTS) -m "not slow"

versions:  ## the tests beside other versions of Python, torch and OpenMMLab: gigabytes, and hours
	@tests/versions.sh

lock: setup  ## renews the pinned versions in requirements/lock
	@PATH=$(CURDIR)/.venv/bin:$$PATH requirements/lock.sh

docs: setup  ## docs/_build/html/index.html
	@$(PYTHON_VENV) -m sphinx -q -W --keep-going -n -b html docs docs/_build/html
