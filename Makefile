# dbuild: what people run is `make demo`, `make test`, `make build` and `make bench`.
# Everything else is a step of those.

GO      ?= go
TAGS    := seccomp,netgo,osusergo
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/dbuild/dbuild/daemon.Version=$(VERSION)
INIT    := worker/runc/initbin/dbuild-init
BIN     := $(CURDIR)/bin
TOOLS   := $(BIN)/tools
LINT_VERSION := v2.15.0
BUILDX_VERSION := v0.38.2
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)

export CGO_ENABLED = 1

.PHONY: build demo test lint unit e2e bench conformance conformance-report golden fuzz soak tools frontend-image clean build-deps test-deps

# The small program that containers are made from goes into the big one. Only the small
# one needs C: runc joins namespaces before Go starts, and libseccomp compiles filters.
build: build-deps
	$(GO) build -trimpath -tags $(TAGS) -ldflags '-s -w -extldflags "-static"' -o $(INIT) ./worker/runc/init
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/dbuild ./cmd/dbuild

# demo makes a base image from Debian's static busybox, builds examples/hello from it and
# shows the result running.
demo: build demo-deps
	./examples/demo.sh $(BIN)/dbuild

test: test-deps lint unit e2e

lint: $(TOOLS)/golangci-lint
	$(GO) vet -tags $(TAGS) ./...
	$(TOOLS)/golangci-lint run ./...

unit: build-deps
	$(GO) test -race -tags $(TAGS) -timeout 15m $$($(GO) list ./... | grep -v /internal/e2e)

e2e: build tools
	DBUILD_BIN=$(BIN)/dbuild DBUILD_TOOLS=$(TOOLS) $(GO) test -race -tags $(TAGS) -timeout 20m -count 1 ./internal/e2e/...

# soak begins BUILDS builds at once and compares what the daemon takes before and after.
BUILDS ?= 1000
soak: build demo-deps
	DBUILD_BIN=$(BIN)/dbuild $(GO) test -tags $(TAGS) -count 1 -v -run '^TestSoak$$' ./internal/e2e -soak $(BUILDS)

# bench runs the same builds with dbuild and with a stock buildkitd in turn and prints
# the ratios. RUNS and ONLY narrow it: make bench ONLY=a10,b20 RUNS=3. IMAGE and LAYER are
# sizes in MB: make bench ONLY=gsame,gother IMAGE=500; make bench ONLY=e1g LAYER=1024
bench: build tools demo-deps
	$(GO) run ./internal/bench -dbuild $(BIN)/dbuild -tools $(TOOLS) $(if $(RUNS),-runs $(RUNS)) $(if $(ONLY),-only $(ONLY)) $(if $(IMAGE),-image $(IMAGE)) $(if $(LAYER),-layer $(LAYER))

# conformance runs BuildKit's own integration tests against dbuild's daemon, or with
# DAEMON=stock against buildkitd. ONLY is a regular expression of the tests to run, PARALLEL
# how many run at once, DBUILD_BIN another dbuild; FAILED=1 leaves out what has passed.
# conformance-report compares the two.
CONFORMANCE = CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/conformance/conformance ./internal/conformance && \
  $(BIN)/conformance/conformance -dir $(BIN)/conformance -tools $(TOOLS)
conformance: build tools conformance-deps
	$(CONFORMANCE) -dbuild $(or $(DBUILD_BIN),$(BIN)/dbuild) -daemon $(or $(DAEMON),dbuild) -parallel $(or $(PARALLEL),2) $(if $(FAILED),-failed) -only '$(ONLY)'

conformance-report:
	$(CONFORMANCE) -report docs/conformance.md

# golden asks a stock BuildKit what it makes of the Dockerfiles that ours is compared with.
CASES ?= testdata/dockerfile/*.txtar
golden: tools test-deps
	testdata/dockerfile/golden/run.sh $(TOOLS) $(CASES)

# fuzz runs every fuzz target for FUZZTIME.
FUZZTIME ?= 60s
fuzz: build-deps
	@set -e; for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -tags $(TAGS) -list '^Fuzz' $$p | grep ^Fuzz || true); do \
	    echo "== $$p $$f"; $(GO) test -tags $(TAGS) -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p; \
	  done; done

tools: $(TOOLS)/buildctl $(TOOLS)/buildkitd $(TOOLS)/dockerfile-frontend $(TOOLS)/buildx $(TOOLS)/engine

$(TOOLS)/buildctl $(TOOLS)/buildkitd $(TOOLS)/dockerfile-frontend: tools/go.mod tools/go.sum
	cd tools && CGO_ENABLED=0 $(GO) build -o $(TOOLS)/ github.com/moby/buildkit/cmd/buildctl github.com/moby/buildkit/cmd/buildkitd \
	  github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend

# frontend-image builds our Dockerfile frontend as an image, for # syntax= in any builder
# that speaks BuildKit's API. FRONTEND_OUTPUT says where it goes.
FRONTEND_OUTPUT ?= type=oci,dest=$(BIN)/frontend.tar
frontend-image: build
	$(BIN)/dbuild -f examples/frontend/Dockerfile --output '$(FRONTEND_OUTPUT)' $(BIN)

# buildx needs a newer BuildKit client than the daemon that we compare with.
$(TOOLS)/buildx:
	GOBIN=$(TOOLS) CGO_ENABLED=0 $(GO) install github.com/docker/buildx/cmd/buildx@$(BUILDX_VERSION)

# The engines that images are loaded into are Debian's, unpacked and not installed, so that
# none runs but those of the tests.
$(TOOLS)/engine:
	rm -rf $@.new && mkdir -p $@.new && cd $@.new && \
	  { apt-get download -qq docker.io containerd || { $(SUDO) apt-get update -qq && apt-get download -qq docker.io containerd; }; } && \
	  for p in *.deb; do dpkg -x $$p . || exit 1; done && rm *.deb && mv $@.new $@

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) CGO_ENABLED=0 $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

# Packages are installed only where a file of theirs is missing.
APT = $(SUDO) sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$@" >/dev/null' apt

.PHONY: demo-deps conformance-deps
build-deps:
	@[ -e /usr/include/seccomp.h ] && command -v gcc >/dev/null && command -v pkg-config >/dev/null || $(APT) libseccomp-dev gcc libc6-dev pkg-config

demo-deps: build-deps
	@[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || $(APT) busybox-static

test-deps: demo-deps
	@for p in docker-registry skopeo runc crun git bzip2 zstd pgrep:procps xz:xz-utils ssh-keygen:openssh-client; do \
	    command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	  [ -z "$$missing" ] || $(APT) $$missing

# What the tests run themselves, and what the stand-ins for images are made of and with.
conformance-deps: test-deps
	@for p in curl ssh:openssh-client gpg:gnupg mke2fs:e2fsprogs iptables dnsmasq:dnsmasq-base musl-gcc:musl-tools dpkg-source:dpkg-dev make bzip2; do \
	    command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	  [ -e /usr/lib/cni/bridge ] || missing="$$missing containernetworking-plugins"; \
	  [ -e /usr/lib/cni/dnsname ] || missing="$$missing golang-github-containernetworking-plugin-dnsname"; \
	  [ -z "$$missing" ] || $(APT) $$missing

clean:
	rm -rf $(BIN) .demo $(INIT)
