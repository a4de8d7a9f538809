# Lorry's tasks. `make` lists them; each brings what it needs or names the command that does.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help runtime runtime-cuda build demo test unit integration e2e browser check vuln bench bench-engine bench-peers clean distclean

export CGO_ENABLED := $(shell scripts/cgo)
# go-nvml's C calls what NVIDIA has since deprecated: a hundred warnings that nobody here can act on.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations

GO_TEST := scripts/gotest
RACE    := $(if $(filter 1,$(CGO_ENABLED)),-race)
# Tests that load llama.cpp or start the whole program run without the race detector: it can't see into the
# libraries, and slows sampling tenfold.
WHOLE   := . ./engine/llama ./cmd/lorry-engine
# Rounds of bench-engine. On two cores three take about 20 minutes for each of the WEIGHTS, after half an hour of builds.
ROUNDS  ?= 3
MODULES  = . $(patsubst %/go.mod,%,$(wildcard e2e/go.mod bench/go.mod deploy/test/go.mod))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

runtime: ## fetch llama.cpp, Valkey and the demo's weights into ./runtime (LORRY_GPU=cuda: the CUDA build)
	@scripts/need python3
	@scripts/runtime

runtime-cuda: ## the same with llama.cpp's CUDA build (143 MB)
	@scripts/need python3
	@LORRY_GPU=cuda scripts/runtime

build: runtime ## build ./lorry and ./lorry-engine
	@scripts/build

demo: build ## start one Lorry, send it real jobs, print the answers
	@scripts/demo

test: runtime build unit integration e2e browser ## every test

unit: runtime ## packages one by one, with the race detector
	@scripts/need go python3
	@$(GO_TEST) $(RACE) -timeout 20m $$(go list ./... | grep -vxF "$$(go list $(WHOLE))")

integration: runtime build ## llama.cpp on real weights, the program's commands
	@$(GO_TEST) -timeout 20m $(WHOLE)

e2e: runtime build ## the real program under faults, as one process and as the compose file's
	@test ! -f e2e/go.mod || (cd e2e && ../$(GO_TEST) -timeout 25m ./...)

browser: runtime build ## the dashboard in Chromium; screenshots in e2e/screenshots
	@scripts/chromium
	@test ! -d e2e/browser || (cd e2e && ../$(GO_TEST) -tags browser -timeout 5m ./browser)

check: ## gofmt, vet, staticcheck, go fix, shellcheck
	@scripts/check $(MODULES)

vuln: ## known vulnerabilities, where the database can be reached
	@scripts/vuln $(MODULES)

bench: build ## the measurements of the README
	@cd bench && go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./...

bench-peers: build ## jobs a second beside Celery and LitServe, which it fetches
	@rivals=$$(scripts/rivals) && cd bench && LORRY_RIVALS=$$rivals go test -run '^$$' -bench Rivals -benchtime 1x -timeout 30m -v .

bench-engine: build ## the engine against llama-server and Kronk, which it builds first (ROUNDS=3, ROW=unique, WEIGHTS=q4_0)
	@cd bench && go run ./peers -rounds $(ROUNDS) $(if $(ROW),-row $(ROW)) $(if $(WEIGHTS),-weights $(WEIGHTS))
	@$(if $(ROW),,go test ./engine/llama -run '^$$' -bench 'SameAnswers|Adapters' -benchtime 1x)

clean: ## remove what was built
	rm -rf lorry lorry-engine .lorry e2e/screenshots

distclean: clean ## and what was fetched (the cache in ~/.cache/lorry stays)
	rm -rf runtime .runtime-*
