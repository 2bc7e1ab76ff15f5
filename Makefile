# Solo's build. `make help` lists the targets.
#
# Everything that is installed or downloaded is named in scripts/bootstrap and
# tools/*/go.mod; everything that is made lands in bin/ and build/.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 5s
BENCH    ?= .
RUN      ?= .
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

BIN   := $(CURDIR)/bin
TOOLS := $(CURDIR)/build/tools

GO      ?= go
LDFLAGS := -s -w -X main.version=$(VERSION)
TAGS    := seccomp netgo osusergo

# One program per directory of cmd/. The launcher alone needs cgo; solo-init is C.
PROGRAMS := $(patsubst cmd/%/main.go,%,$(wildcard cmd/*/main.go))
PURE     := $(filter-out solo-launcher,$(PROGRAMS))

MUSL_CC     ?= musl-gcc
INIT_CFLAGS := -std=c11 -static -Os -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror \
	-fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections \
	-Wl,--gc-sections -Wl,-z,noseparate-code -s
INIT_SRC    := $(wildcard sandbox/initproc/*.c)
INIT_HDR    := $(wildcard sandbox/initproc/*.h)

# What the tests find here; a test that needs one of these fails, instead of
# skipping, where it is missing. test/testenv knows the names.
SOLO_REQUIRE ?= root,cgroup,userns,seccomp,landlock,python,redis,tools

# Packages whose tests also run on cgroup v2 and Linux 6.1, in the VM.
VM_PACKAGES ?= ./cgroups $(if $(wildcard test/e2e/*_test.go),./test/e2e)

.PHONY: help demo test test-unit test-long test-vm check lint generate bench tcb fuzz \
	build install clean bootstrap programs

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

bootstrap: ## install what a fresh Debian with Go and make lacks
	@scripts/bootstrap

demo: build ## install, build, boot Solo and show it at work
	@scripts/demo.sh

build: bootstrap ## all programs into bin/
	@$(MAKE) --no-print-directory programs

# The programs alone, without looking for what is needed to build them.
programs: $(if $(INIT_SRC),$(BIN)/solo-init)
	@mkdir -p $(BIN)/test
	$(if $(PURE),CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)" -o $(BIN)/ $(addprefix ./cmd/,$(PURE)))
	$(if $(filter solo-launcher,$(PROGRAMS)),CGO_ENABLED=1 $(GO) build -trimpath -buildvcs=false -tags "$(TAGS)" \
		-ldflags '$(LDFLAGS) -linkmode external -extldflags -static' -o $(BIN)/solo-launcher ./cmd/solo-launcher)
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o $(BIN)/test/victim ./test/victim
	@# solod looks for the runtime descriptors beside the programs.
	@if [ -d runtimes ]; then rm -rf $(BIN)/runtimes && cp -r runtimes $(BIN)/runtimes; fi

$(BIN)/solo-init: $(INIT_SRC) $(INIT_HDR) Makefile
	@mkdir -p $(BIN)
	$(MUSL_CC) $(INIT_CFLAGS) -o $@ $(INIT_SRC)

test: test-unit test-vm ## all tests, on this host and in the VM

test-unit: build
	SOLO_REQUIRE=$(SOLO_REQUIRE) SOLO_BIN=$(BIN) PATH="$(TOOLS):$$PATH" CGO_ENABLED=1 \
		$(GO) test -race -count=1 -tags seccomp -p 2 -timeout 10m -run '$(RUN)' ./...

test-long: build ## the tests with their large budgets
	SOLO_LONG=1 SOLO_REQUIRE=$(SOLO_REQUIRE) SOLO_BIN=$(BIN) PATH="$(TOOLS):$$PATH" CGO_ENABLED=1 \
		$(GO) test -race -count=1 -tags seccomp -p 2 -timeout 60m -run '$(RUN)' ./...

test-vm: build ## the cgroup v2 leg: Linux 6.1 in qemu
	$(GO) run ./test/vm -bin $(BIN) -run '$(RUN)' $(VM_PACKAGES)

check: bootstrap lint ## everything that reads the sources: lint, formats, generated code, rules
	@scripts/check

lint: bootstrap ## golangci-lint
	CGO_ENABLED=1 $(TOOLS)/golangci-lint run ./...

generate: bootstrap ## regenerate the protobuf code
	cd proto && PATH="$(TOOLS):$$PATH" buf generate

bench: build ## the benchmarks of test/bench
	SOLO_BIN=$(BIN) $(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 30m -tags seccomp ./test/bench/...

tcb: ## count the lines that must be trusted
	@scripts/tcb

fuzz: bootstrap ## every fuzz target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

install: build ## into DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/solo/runtimes
	install -m 0755 $(addprefix $(BIN)/,$(filter-out solo-ctl,$(PROGRAMS)) solo-init) $(DESTDIR)$(PREFIX)/lib/solo/
	cp -r $(BIN)/runtimes/. $(DESTDIR)$(PREFIX)/lib/solo/runtimes/
	install -m 0755 $(BIN)/solo-ctl $(DESTDIR)$(PREFIX)/bin/
	ln -sf ../lib/solo/solod $(DESTDIR)$(PREFIX)/bin/solod

clean: ## remove bin/ and build/
	rm -rf $(BIN) $(CURDIR)/build
