# Atoll. `make demo` runs three zones on this machine; `make test` runs all that CI runs.
SHELL := /bin/bash -o pipefail
.SHELLFLAGS := -eu -o pipefail -c
GO    ?= go
BIN   := bin/atoll
IMAGE ?= localhost/atoll:dev
SEEDS ?= 100
PG_BIN ?= /usr/lib/postgresql/15/bin
GO_FLAGS := -trimpath

.PHONY: up down build image kube-up kube-down demo deps deps-test deps-kube test test-unit test-race test-sim test-e2e sim sim-planted bench lint clean fuzz

build: ## bin/atoll
	$(GO) build $(GO_FLAGS) -o $(BIN) ./node/cmd/atoll

demo: deps build ## three zones on this machine, a process per node, until Ctrl-C
	./$(BIN) demo

deps: ## a C compiler (for PostgreSQL's parser) and psql/pgbench, installed if they are missing
	@.ci/deps

up: deps deps-kube ## Kubernetes of three zones on this machine, and pulumi up of Atoll on it (root; the first time builds Kubernetes)
	infra/local/up.sh up

down: ## end both, and remove all of it, volumes included
	infra/local/up.sh down

deps-kube: ## what the local Kubernetes needs: containerd, runc, CNI plugins, nftables
	@.ci/deps kube

image: deps ## bin/atoll-image.tar, an OCI image, given to the local Kubernetes if it is up (ARCH=arm64 needs a cross compiler)
	$(GO) run ./infra/image/cmd/atoll-image $(if $(ARCH),--arch $(ARCH)) --name $(IMAGE) -o bin/atoll-image.tar
	$(if $(filter-out $(shell $(GO) env GOHOSTARCH),$(ARCH)),,$(GO) run ./infra/local/cmd/localkube load --if-up bin/atoll-image.tar)

kube-up: deps-kube ## a real Kubernetes of three zones on this machine (root; builds it the first time: some 22 minutes of CPU)
	$(GO) run ./infra/local/cmd/localkube up

kube-down: ## end it and remove all of it, volumes included
	$(GO) run ./infra/local/cmd/localkube down

deps-test: ## the same, and drivers that the end-to-end tests use
	@.ci/deps test

test: deps-test build ## everything that fits in CI
	.ci/test

test-unit:
	$(GO) test ./...

test-race:
	$(GO) test -race -short ./...

sim: ## whole clusters on virtual time: make sim SEEDS=1000 [SEED=first] [REPEAT=n]
	$(GO) test ./node/sim -count=1 -timeout 55m -run TestSeeds -v -args -seeds=$(SEEDS) $(if $(SEED),-seed=$(SEED)) $(if $(REPEAT),-repeat=$(REPEAT)) | grep -v '^=== '

sim-planted: ## the bugs that are planted to show that the checkers bite
	$(GO) test ./node/sim -count=1 -timeout 55m -run TestPlanted -v | grep -v '^=== '

test-e2e: deps-test build ## the real binary, real processes, psql and pgbench, the local Kubernetes, its zones lost (make up is part of it)
	$(GO) test ./tests/... -count=1 -timeout 30m -v
	$(MAKE) zone-test

# The stack has three zones; the kit replaces one of them by the fourth.
zone-test: build ## lose zones of a stack in every way its platform can, under load: STACK=local (as root; deploys it), or one that is up
	cd tests/zonefailure/terratest && STACK=$(or $(STACK),local) ZONES=$${ZONES:-us-a,us-b,us-c,us-d} $(GO) test -count=1 -timeout 60m -v $(if $(RUN),-run '$(RUN)') ./...

bench: deps build ## pgbench beside PostgreSQL with two synchronous standbys, as ratios
	$(GO) run ./tests/bench -pg-bin $(PG_BIN)

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "gofmt: run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	@command -v golangci-lint >/dev/null && golangci-lint run || echo "golangci-lint is not installed: gofmt and go vet only"

clean:
	rm -rf bin
