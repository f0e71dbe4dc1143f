# `make demo` and `make test` do all the setting up. They need Python 3.11 and pip, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS = --quiet --disable-pip-version-check
# Holds the build backend, too, to the versions in the lock file.
export PIP_CONSTRAINT = requirements/test.txt

.PHONY: demo test slow docs lock scores clean

demo: .venv-demo/installed
	.venv-demo/bin/python scripts/install_size.py
	.venv-demo/bin/python scripts/demo.py

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python
	.venv/bin/lint-imports --no-logo
	$(DOCS)
	.venv/bin/pytest -n auto

# The site of the documentation, into site/: warnings are errors, and nothing is loaded from elsewhere.
docs: .venv/installed
	$(DOCS)
# With --quiet MkDocs would swallow warnings; the variable silences Material's notice about the next MkDocs.
DOCS = NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

# What takes minutes or gigabytes: before a release, and after a change to export or cost.
slow: .venv/installed
	.venv/bin/pytest -m slow

# Byte code is left to be made on first use: most of scipy is never used here, and it would be 100 MB.
.venv-demo/installed: requirements/demo.txt requirements/test.txt pyproject.toml
	@echo "Installing the core and the demo's photographs into .venv-demo: half a minute, 560 MB"
	rm -rf .venv-demo
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install $(PIP_FLAGS) --no-compile -r requirements/demo.txt
	.venv-demo/bin/pip install $(PIP_FLAGS) --no-compile --no-deps -e .
	touch $@

.venv/installed: requirements/test.txt pyproject.toml
	@echo "Installing everything into .venv: some minutes, about 6 GB"
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	.venv/bin/pip install $(PIP_FLAGS) --no-compile -r requirements/test.txt
	.venv/bin/pip install $(PIP_FLAGS) --no-deps -e .
	touch $@

# Raises every pin to the newest version that pyproject.toml and requirements/pins.txt allow.
# The smaller lock files follow the large one, so that what is tested is what the demo runs.
COMPILE = .venv-lock/bin/pip-compile --quiet --upgrade --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
lock: export CUSTOM_COMPILE_COMMAND = make lock
lock: export PIP_CONSTRAINT =
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install $(PIP_FLAGS) 'pip-tools>=7.5'
	$(COMPILE) --all-extras -c requirements/pins.txt -o requirements/test.txt pyproject.toml
	$(COMPILE) --extra demo -c requirements/test.txt -o requirements/demo.txt pyproject.toml
	$(COMPILE) -c requirements/test.txt -o requirements/core.txt pyproject.toml

# Writes the embedded model's scores, as its bundle states them, into the README.
scores: .venv/installed
	.venv/bin/python scripts/render_scores.py

clean:
	rm -rf .venv .venv-demo .venv-lock demo-output dist build site
