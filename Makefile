PYTHON_VENV := .venv/bin/python
# threads that wait sleep: on a busy machine spinning ones cost a factor of ten
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo demo-det test versions

setup:  ## fills .venv (minutes the first time, a moment after that)
	@requirements/setup.sh

demo: setup  ## toy data, training, test: mIoU before and after, and pictures
	@$(PYTHON_VENV) tools/demo.py

demo-det: setup  ## the same for detection: box and mask AP before and after, and pictures
	@$(PYTHON_VENV) tools/demo.py det

test: setup  ## style and tests
	@.venv/bin/ruff check .
	@OMP_NUM_THREADS=1 $(PYTHON_VENV) -m pytest -n 2 --dist worksteal

versions:  ## the tests beside other versions of Python, torch and OpenMMLab: gigabytes, and most of an hour
	@tests/versions.sh
