# Everything a newcomer needs: `make run` shows it working, `make test` proves it.
CARGO ?= cargo

.PHONY: run build check test test-deps bench soak

## Build, then scrape this program, the host's node exporter if it runs, or a small built-in farm.
run: build
	@scripts/run

build:
	$(CARGO) build --release --locked -p ringscrape-server -p bench-harness

## rustfmt, clippy with warnings denied, the layering test, docs.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --locked -p ringscrape-server --test layering
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

## Unit tests, properties and whole-program tests.
test: test-deps
	$(CARGO) test --workspace --locked

## The long forms of the fault tests; the power cut needs root and a loop device.
soak: test-deps
	RINGSCRAPE_CRASH_SEEDS=5000 $(CARGO) test --release --locked -p ringscrape-tsdb --test crashes
	RINGSCRAPE_KILL_ROUNDS=5000 $(CARGO) test --release --locked -p ringscrape-server --test durability kill
	$(CARGO) test --release --locked -p ringscrape-server --test durability power_cut -- --ignored --nocapture

## Peer programs that tests run against, from Debian's packages.
test-deps:
	@scripts/test-deps

## Criterion benches of the hot rooms; figures and their records: perf/RECORD.md.
bench:
	$(CARGO) bench --locked -p ringscrape-perf
