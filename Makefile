# Everything a newcomer needs: `make run` shows it working, `make test` proves it, `make help` lists the rest.
CARGO ?= cargo

.PHONY: help run quick dist packages test-packages dashboards demo-ha demo-federation demo-fleet demo-agents build ui check test test-deps bench-deps bench bench-compare compare compare-short picture agree scale profile soak

## This list.
help:
	@awk '/^## / { text = substr($$0, 4); next } /^[a-z-]+:/ && text { sub(/:.*/, ""); printf "make %-16s %s\n", $$0, text } { text = "" }' $(MAKEFILE_LIST)

## Build, then scrape this program, the host's node exporter if it runs, or a small built-in farm.
run: quick
	@BIN=$${CARGO_TARGET_DIR:-target}/quick scripts/run

## Two edges, a hub and the farm: shows that the hub has the aggregates and nothing else.
demo-federation: build
	@scripts/demo-federation

## Five processes over the farm, members coming and going: a table of moved targets, gaps and overlaps. About two minutes.
demo-fleet: build
	@scripts/demo-fleet

## A redundant pair before Debian's Alertmanager: one notification, one killed, alerting goes on. Under two minutes.
demo-ha: build test-deps
	@scripts/demo-ha

## Two agents behind one list send to a Debian Prometheus, one is killed: nothing is missing. About a minute.
demo-agents: build test-deps
	@scripts/demo-agents

## The program for trying, without the link of the whole program at once, and the farm.
quick:
	$(CARGO) build --profile quick --locked -p ringscrape-server -p bench-harness

## The program as it is shipped: target/release/ringscrape.
dist:
	$(CARGO) build --release --locked -p ringscrape-server

## Packages of that program in target/packages: .deb, .rpm where rpmbuild is, tarball, OCI image, SBOM, checksums.
packages: dist
	@scripts/package

## The .deb in a clean root: installed, started, scraped, upgraded, removed. Needs root and debootstrap.
test-packages:
	@scripts/test-packages

## The Grafana dashboards in configs/dashboards, from their table in scripts/dashboards.
dashboards:
	@scripts/dashboards

## The release programs: ringscrape, farm, harness.
build:
	$(CARGO) build --release --locked -p ringscrape-server -p bench-harness

## The files of the web UI, from engine/api/ui to engine/api/assets/ui; needs node and npm.
ui:
	@scripts/ui-check build

# Tests with the features of the whole workspace, so that `make test` finds everything built.
## rustfmt, clippy with warnings denied, structure (layers, module cycles, names), docs and their links, licences, the web UI's files.
check:
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked --test layering --test docs
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	@scripts/deny-check
	@scripts/ui-check

## Unit tests, properties and whole-program tests.
test: test-deps
	$(CARGO) test --workspace --locked

## The long forms of the fault tests; the power cut needs root and a loop device.
soak: test-deps
	RINGSCRAPE_CRASH_SEEDS=5000 $(CARGO) test --release --locked -p ringscrape-tsdb --test crashes
	RINGSCRAPE_PROMQL_CASES=3000000 $(CARGO) test --release --locked -p ringscrape-promql --test differential -- --nocapture
	RINGSCRAPE_SIMULATION_SEEDS=5000 $(CARGO) test --release --locked -p ringscrape-tsdb --lib simulation
	RINGSCRAPE_SENDING_SEEDS=5000 $(CARGO) test --release --locked -p ringscrape-remote-write --lib simulation
	RINGSCRAPE_KILL_ROUNDS=5000 $(CARGO) test --release --locked -p ringscrape-server --test durability kill
	$(CARGO) test --release --locked -p ringscrape-server --test durability power_cut -- --ignored --nocapture

## Peer programs that tests run against, from Debian's packages.
test-deps:
	@scripts/test-deps

## Programs that ringscrape is compared with, and what measuring needs, from Debian's packages.
bench-deps:
	@scripts/bench-deps

## Side by side on one farm: a report on stdout, results in bench-harness/results, docs/ratios.svg. About an hour; leave the machine alone.
compare: build bench-deps
	@scripts/harness compare $(or $(SCENARIO),app) --picture docs/ratios.svg

## The same in about five minutes, with a small load and one round.
compare-short: build bench-deps
	@scripts/harness compare short

## The picture alone, from RESULTS=bench-harness/results/….json.
picture: build
	@scripts/harness picture $(RESULTS) --out docs/ratios.svg

## What ringscrape wrote, Prometheus opens; both have to answer the same.
agree: build bench-deps
	@scripts/harness agree blocks

## Ten million series on this machine (24 GiB); see docs/scale.md.
scale: build bench-deps
	@scripts/harness compare scale

## Where the time of a running server goes: perf by its clock, top names on stdout, stacks for a flame graph in a file.
profile: bench-deps
	@scripts/profile

## Criterion benches of the hot paths, kept as a dated record in perf/results; what was learned: perf/RECORD.md.
bench:
	$(CARGO) bench --locked -p ringscrape-perf
	$(CARGO) run --release --locked -q -p ringscrape-perf --bin bench-record keep

## The same, beside the newest record; nothing is written.
bench-compare:
	$(CARGO) bench --locked -p ringscrape-perf
	$(CARGO) run --release --locked -q -p ringscrape-perf --bin bench-record compare
