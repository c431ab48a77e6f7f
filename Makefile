# drover: `make run` shows it at work, `make help` lists the rest.

CARGO ?= cargo
# make run PORT=af_packet: the director on a veth instead of a TAP.
PORT ?= tap
# make run REQUESTS=10000
REQUESTS ?= 1000
# make run ONCE=1: check, take it down, exit 0 or 1.
once := $(if $(filter-out 0,$(ONCE)),--once)

.DEFAULT_GOAL := help
.PHONY: help run test guest check build deps test-deps lab-down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

run: build ## a director, three servers and 1,000 requests, until Ctrl-C (ONCE=1: check and leave)
	@target/release/drover lab demo --port $(PORT) --requests $(REQUESTS) $(once)

test: test-deps ## every test, with and without DPDK, end-to-end ones too
	$(CARGO) test --workspace
	$(CARGO) test --no-default-features

guest: test-deps ## droverd on a PCI NIC of two queues, in a virtual machine; part of `make test`
	$(CARGO) test --test e2e_guest -- --nocapture

check: deps ## format, lints and the tidy test: exactly what is asked of a change
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features -- -D warnings
	$(CARGO) test --no-default-features --test tidy

build: deps ## both programs, in target/release
	$(CARGO) build --release --bins

deps: ## install by apt what is missing
	@.ci/packages

test-deps:
	@.ci/packages qemu-system-x86 busybox-static cpio binutils

lab-down: ## take down what a lab left behind
	@target/release/drover lab down

clean: ## remove what was built
	$(CARGO) clean
