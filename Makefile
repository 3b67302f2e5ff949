# Everything a person types. Each target does its own set-up; the second time is quick.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where torch comes from. PyTorch's CPU index saves gigabytes where there is no GPU (see README).
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed
TRAINING_STAMP := $(VENV)/.installed-training
DOCUMENTS_STAMP := $(VENV)/.installed-documents

.PHONY: demo test test-gpu test-systemd test-documents faults fuzz soak lint coverage format bench install uninstall voices model samples clean help

help:
	@echo "make demo      run the daemon on sample recordings"
	@echo "make test      run the tests (needs espeak-ng, flite, sox, ffmpeg)"
	@echo "make test-gpu  run the tests that need an NVIDIA GPU"
	@echo "make faults    kill, fail, attack and misconfigure it at every step, cut the power; nothing may be lost (over an hour; partly root)"
	@echo "make fuzz      throw 2,000 damaged recordings at the front end"
	@echo "make soak      500 mixed recordings with random faults and restarts; a table and build/soak/soak.svg"
	@echo "make test-systemd  as root: run the tests under a real systemd"
	@echo "make test-documents  open the documents in Chromium and LibreOffice"
	@echo "make lint      ruff, mypy and shellcheck, exactly as CI runs them"
	@echo "make bench     benchmarks against named rivals"
	@echo "make install   as root: /opt/scribed, user, folders, systemd unit"

# Set-up

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "scribed needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python cannot make virtual environments here. Run: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	@echo "Setting up $(VENV); the first time takes some minutes."
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Use

demo: $(STAMP)
	$(BIN)/scribed demo --into build/demo --force

# Work on it

test: $(STAMP)
	@for program in espeak-ng flite sox ffmpeg; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -n "$$missing" ]; then echo "The tests need$$missing. Run: sudo apt-get install espeak-ng flite sox libsox-fmt-all ffmpeg"; exit 1; fi
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

test-systemd: $(STAMP)
	$(BIN)/python -m pytest -m systemd --numprocesses 2 --dist loadfile tests/system

$(DOCUMENTS_STAMP): $(STAMP)
	$(PIP) --constraint constraints.txt --editable '.[documents]'
	@touch $@

test-documents: $(DOCUMENTS_STAMP)
	@for program in chromium soffice pdftotext; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -n "$$missing" ]; then echo "These tests need$$missing. Run: sudo apt-get install --no-install-recommends chromium libreoffice-writer poppler-utils"; exit 1; fi
	$(BIN)/python -m pytest -m documents tests/documents

faults: $(STAMP)
	$(BIN)/python -m tests.faults.sweep
	$(BIN)/python -m tests.faults.adversary
	$(BIN)/python -m tests.faults.powercut
	$(BIN)/python -m tests.faults.poison

soak: $(STAMP)
	$(BIN)/python -m tests.faults.soak --into build/soak

fuzz: $(STAMP)
	$(BIN)/python -m tests.faults.fuzz --runs 2000

lint: $(STAMP)
	@command -v shellcheck >/dev/null || { echo "Linting needs shellcheck. Run: sudo apt-get install shellcheck"; exit 1; }
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	shellcheck .ci/run systemd/*.sh systemd/examples/*.sh tests/system/*.sh

# Every Python process of the tests measures which branches it takes, except sandboxed audio processes, which cannot write.
coverage: $(STAMP)
	rm -rf build/coverage && mkdir -p build/coverage
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml COVERAGE_FILE=$(CURDIR)/build/coverage/data $(MAKE) test
	COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/python tools/check_coverage.py

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP)
	$(BIN)/python benchmarks/frontend.py
	$(BIN)/python benchmarks/daemon.py
	$(BIN)/python benchmarks/engine.py

# For maintainers; all need espeak-ng and flite. docs/demo-model.md describes the training.
$(TRAINING_STAMP): $(STAMP)
	$(PIP) --constraint constraints.txt --editable '.[training]'
	@touch $@

TRAIN_WHOLE = $(BIN)/python tools/train_demo_model.py --from build/model-encoder --whole --voices build/voices \
    --work build/train-whole --cooldown-minutes 20

voices: $(TRAINING_STAMP)
	$(BIN)/python tools/demo_voices.py --into build/voices

model: voices
	$(BIN)/python tools/train_demo_model.py --from daemon/demo/model --voices build/voices \
	    --work build/train-encoder --out build/model-encoder --minutes 52
	$(TRAIN_WHOLE) --out build/model-1 --minutes 162
	$(TRAIN_WHOLE) --out build/model-2 --minutes 193 --resume
	$(TRAIN_WHOLE) --out build/model-3 --minutes 230 --resume
	$(BIN)/python tools/average_demo_models.py --out build/model \
	    build/model-1=0.25 build/model-2=0.55 build/model-3=0.2

samples: $(TRAINING_STAMP)
	$(BIN)/python tools/make_sample_recordings.py --out daemon/demo/recordings

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# On a server

install:
	sh systemd/install.sh

uninstall:
	sh systemd/uninstall.sh
