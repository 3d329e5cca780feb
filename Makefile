# SPDX-License-Identifier: GPL-3.0-only
# Every command a newcomer needs. `make help` lists them; each target that builds first runs tools/bootstrap.

SHELL := /bin/bash
CARGO ?= cargo
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help bootstrap build demo test vmtest soak bench lint fmt release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

bootstrap: ## install what building, testing and the demo need, if anything is missing
	@tools/bootstrap

build: bootstrap ## build everything, in the one profile that tests and the demo use
	$(CARGO) build --workspace

demo: bootstrap ## the whole product in network namespaces until Ctrl-C; ARGS=--once: ends by itself, exit 0 if every reply came
	@tools/demo $(ARGS)

test: ## everything that must hold: bootstrap, build, lint, tests; ARGS=--full for 1 GiB bodies; ARGS="--only NAME" for one stage
	@tools/test $(ARGS)

vmtest: bootstrap ## the packet table and every object inside another kernel, in an emulator: make vmtest KERNEL=6.1
	@vmtests/bootstrap
	$(CARGO) build --quiet --workspace --bin eg-vmtests
	@target/debug/eg-vmtests --kernel $(or $(KERNEL),6.1)

soak: ## the tests with the full counts that make test reduces: 1 GiB bodies on every front, 100 million frames to the model
	@tools/test --full

bench: bootstrap ## us beside nginx and HAProxy, and the cost of a packet; ARGS="--only l4|l7|quic --quick --json FILE"
	@python3 tools/bench/run.py $(ARGS)

lint: bootstrap ## formatting, clippy with warnings denied, clang-format, cargo-deny where installed
	@tools/lint

fmt: bootstrap ## format Rust and C in place
	$(CARGO) fmt --all
	@if command -v clang-format-19 >/dev/null; then find bpf -name '*.[ch]' -print0 | xargs -0r clang-format-19 -i; fi

release: bootstrap ## build the release binaries into target/release
	$(CARGO) build --release --workspace --bins

clean: ## remove target/, .venv/ and .cache/
	rm -rf target .venv .cache
