# drover: `make run` shows it at work, `make help` lists the rest.

CARGO ?= cargo
# make run PORT=af_packet: the director on a veth instead of a TAP.
PORT ?= tap
# make run REQUESTS=10000
REQUESTS ?= 1000
# make run ONCE=1: check, take it down, exit 0 or 1.
once := $(if $(filter-out 0,$(ONCE)),--once)

# make conformance SEEDS=20 STEPS=300
SEEDS ?= 200
STEPS ?= 500

.DEFAULT_GOAL := help
.PHONY: help run test guest conformance check bench bench-quick bench-check build deps bench-deps test-deps lab-down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: build ## a director, three servers and 1,000 requests, until Ctrl-C (ONCE=1: check and leave)
	@target/release/drover lab demo --port $(PORT) --requests $(REQUESTS) $(once)

test: test-deps ## every test, with and without DPDK, end-to-end ones too
	$(CARGO) test --workspace
	$(CARGO) test --no-default-features

guest: test-deps ## droverd on a PCI NIC of two queues, in a virtual machine; part of `make test`
	$(CARGO) test --test e2e_guest -- --nocapture

# make conformance SEED=7 STEPS=500: that seed alone, every step printed. ASK=file: the kernel's answers to a scenario
# written by hand. RECORD=1: writes tests/data/ipvs anew.
conformance: test-deps ## the real Linux kernel and the director on SEEDS=200 random scenarios of STEPS=500 steps
	SEEDS=$(SEEDS) STEPS=$(STEPS) SEED=$(SEED) FIRST=$(FIRST) RECORD=$(RECORD) ASK=$(ASK) \
		$(CARGO) test --no-default-features --test ipvs_conformance -- --nocapture \
		$(if $(ASK),--ignored asked,$(if $(RECORD),recordings,director))

check: deps ## format, lints and the tidy test: exactly what is asked of a change
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features -- -D warnings
	$(CARGO) test --no-default-features --test tidy

# Memory to set aside in 2 MB pages, given back afterwards; only root can.
bench: bench-deps ## every benchmark, a few minutes: a table, target/bench/results.json, perf/plots, perf/README.md
	perf/hugepages 6400 $(CARGO) bench --bench perf

bench-quick: bench-deps ## the same in less than a minute, with fewer and smaller tables
	perf/hugepages 1700 $(CARGO) bench --bench perf -- --quick

bench-check: bench-deps ## the quick run's ratios against perf/baseline.json
	perf/hugepages 1700 $(CARGO) bench --bench perf -- --check

build: deps ## both programs, in target/release
	$(CARGO) build --release --bins

deps: ## install by apt what is missing
	@.ci/packages

bench-deps:
	@.ci/packages dpdk-dev

test-deps:
	@.ci/packages dpdk-dev qemu-system-x86 cpio binutils

lab-down: ## take down what a lab left behind
	@target/release/drover lab down

clean: ## remove what was built
	$(CARGO) clean
