# For newcomers: `make demo` and `make test` work on a machine that has Rust and Debian's package
# manager, and install the rest. Everything else is a task of `cargo xtask`.

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
PACKAGES := xtask/debian-packages.txt

.PHONY: help setup build test lint demo bench images

help:
	@echo "make demo    make a real image, run it, send it a request, show what happened"
	@echo "make test    lints, unit tests, end-to-end tests"
	@echo "make build   the programs, static, in target/isle/"
	@echo "make bench   beside crun, runc, Podman and Docker"
	@echo "make images  all images of examples/"
	@echo "cargo xtask --help has the rest"

setup build test lint demo bench images: | toolchain
	@cargo xtask $@

# Without a linker and the C library's files not even xtask can be built.
.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup (rustup.rs)" >&2; exit 1; }
	@if ! command -v cc >/dev/null || ! [ -e "$$(cc -print-file-name=libc.a)" ]; then \
	    set -- $$(awk '$$1 == "build" { print $$2 }' $(PACKAGES)); \
	    echo "installing Debian packages: $$*"; \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@"; \
	fi
