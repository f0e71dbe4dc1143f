# `make demo` and `make test` do all the setting up. They need Python 3.11 and pip, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS = --quiet --disable-pip-version-check
# What is installed is exactly what the lock files name, byte for byte; the package itself is built with what they hold.
LOCKED = --require-hashes
EDITABLE = --no-deps --no-build-isolation -e .

.PHONY: demo test slow docs lock wheels release campaign scores clean

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
.venv-demo/installed: requirements/demo.txt requirements/build.txt pyproject.toml
	@echo "Installing the core and the demo's photographs into .venv-demo: half a minute, 560 MB"
	rm -rf .venv-demo
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install $(PIP_FLAGS) --no-compile $(LOCKED) -r requirements/demo.txt -r requirements/build.txt
	.venv-demo/bin/pip install $(PIP_FLAGS) --no-compile $(EDITABLE)
	touch $@

.venv/installed: requirements/test.txt pyproject.toml
	@echo "Installing everything into .venv: some minutes, about 6 GB"
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	.venv/bin/pip install $(PIP_FLAGS) --no-compile $(LOCKED) -r requirements/test.txt
	.venv/bin/pip install $(PIP_FLAGS) $(EDITABLE)
	touch $@

# Raises every pin to the newest version that pyproject.toml and requirements/pins.txt allow, and takes the hashes of all
# its files from the index (pip-compile would download them, torch for every platform).
# `make lock UPGRADE=` keeps the versions that still fit. The smaller lock files follow the large one, so that what is tested is what the demo and the container run.
COMPILE = .venv-lock/bin/uv pip compile --quiet $(UPGRADE) --generate-hashes --no-strip-markers --python .venv-lock/bin/python
UPGRADE = --upgrade
# gpu and openvino would each replace onnxruntime; tflite and executorch are for exports alone.
EXTRAS = parquet evaluate heif demo hub torch train video scale serve notebook docs dev
lock: export UV_CUSTOM_COMPILE_COMMAND = make lock
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install $(PIP_FLAGS) 'uv>=0.13'
	$(COMPILE) $(EXTRAS:%=--extra %) -c requirements/pins.txt -o requirements/test.txt pyproject.toml
	$(COMPILE) --extra demo -c requirements/test.txt -o requirements/demo.txt pyproject.toml
	$(COMPILE) --extra serve -c requirements/test.txt -o requirements/serve.txt pyproject.toml
	$(COMPILE) -c requirements/test.txt -o requirements/core.txt pyproject.toml
	printf 'build\ncheck-wheel-contents\nhatchling\ntwine\nuv\n' | $(COMPILE) -c requirements/test.txt -o requirements/release.txt -
	printf 'hatchling\neditables\n' | $(COMPILE) -c requirements/test.txt -o requirements/build.txt -

# Whether the core has wheels for every Python and platform; what a release consists of, built and checked in dist/.
wheels: .venv-release/installed
	.venv-release/bin/python scripts/check_wheels.py
release: .venv-release/installed
	.venv-release/bin/python scripts/release.py

.venv-release/installed: requirements/release.txt
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install $(PIP_FLAGS) $(LOCKED) -r requirements/release.txt
	touch $@

# Hostile input, strangers and kills, in an hour: what does not hold ends it with an error.
campaign: .venv/installed
	.venv/bin/python benchmarks/campaign.py

# Writes the embedded model's scores, as its bundle states them, into the README.
scores: .venv/installed
	.venv/bin/python scripts/render_scores.py

clean:
	rm -rf .venv .venv-demo .venv-lock .venv-release demo-output dist build site
