PYTHON_VENV := .venv/bin/python

.PHONY: setup demo test

setup:  ## fills .venv (minutes the first time, a moment after that)
	@requirements/setup.sh

demo: setup  ## toy data, training, test: mIoU before and after, and pictures
	@$(PYTHON_VENV) tools/demo.py

test: setup  ## style and tests
	@.venv/bin/ruff check .
	@OMP_NUM_THREADS=1 $(PYTHON_VENV) -m pytest -n 2 --dist worksteal
