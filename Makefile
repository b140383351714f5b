# Verbs only. Whatever needs more than three lines is a script in deploy/ or Rust in tests/devnet.
# Everything is compiled once, into one folder of the user's cache; set CARGO_TARGET_DIR to use another.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/owm/target
export SQLX_OFFLINE ?= true
CARGO ?= cargo
DEVNET = $(CARGO_TARGET_DIR)/debug/owm-devnet

.DEFAULT_GOAL := help
.PHONY: help up down status reset setup build test test-long bench bench-attacks bench-aggregate bench-rounds bench-train demo-train sim fuzz check protos sqlx-prepare sqlx-check

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: setup build ## install what is missing, build, start a local network; Ctrl-C stops it, its state is kept
	@deploy/up.sh

down: ## stop a network that runs in another terminal
	@$(DEVNET) down

status: ## what the local network is doing
	@$(DEVNET) status

reset: ## delete the local network's state (keys, database, models); the cached weights stay
	@$(CARGO) build --quiet --locked -p owm-devnet && $(DEVNET) reset

setup: ## install what is missing (Debian packages; says which; sudo where not root)
	@deploy/setup.sh

build: ## compile the programs, in the same profile as the tests
	@$(CARGO) build --locked -p owm-coordinator -p owm-node -p owm-devnet

test: ## all tests: Rust, documentation, openai client, browser, the real weights if they can be had
	@deploy/setup.sh test
	@deploy/test.sh

test-long: ## as test, with the tests marked as long
	@deploy/setup.sh test
	@OWM_TEST_LONG=1 deploy/test.sh

bench: setup build ## questions to the real model, then load on a coordinator, then gossip; see docs/benchmarks.md
	@deploy/bench.sh

bench-attacks: ## liars in one round, every strategy and size; writes docs/robustness.md (minutes)
	@$(CARGO) run --quiet --locked --profile bench-net -p owm-attacks -- --out docs/robustness.md

bench-aggregate: ## a round of 135M parameters: milliseconds per update, updates per second, peak memory
	@$(CARGO) run --quiet --locked --profile bench-net -p owm-attacks --bin owm-aggregate-bench

bench-rounds: setup ## what the update codec costs in learning: three seeds of each way to send a step
	@deploy/bench-rounds.sh

bench-train: setup ## training beside PyTorch, in turns; wants an idle machine
	@deploy/bench-train.sh

demo-train: setup ## train a small model for a minute and the real one on two domains; figures before and after
	@deploy/demo-train.sh

sim: ## what a node of a network of 100 and of 10,000 costs, simulated (minutes); see docs/scale.md
	@$(CARGO) run --quiet --locked --profile bench-net -p owm-sim -- scale --nodes 100 --seconds 600
	@$(CARGO) run --quiet --locked --profile bench-net -p owm-sim -- scale --nodes 10000 --shards 8 \
		--rules-one-of 25 --warm 60 --seconds 20

fuzz: ## each fuzz target for a minute (SECONDS=…); see tests/fuzz
	@deploy/fuzz.sh $(SECONDS)

check: ## format, lints, documentation, .sqlx
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --workspace --no-deps --document-private-items

protos: ## generate proto/src/gen anew from the .proto files
	@$(CARGO) run --quiet --locked -p owm-proto-codegen

sqlx-prepare: setup ## write .sqlx anew (after a change of SQL or of a migration)
	@deploy/sqlx-prepare.sh

sqlx-check: setup ## fail if .sqlx is not what the SQL says
	@deploy/sqlx-prepare.sh --check
