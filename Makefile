# make            build the program
# make install    program, manual and completions below $(DESTDIR)$(PREFIX)
# make check      everything that must hold before a change is taken
# make setup      the tools that check uses, on Debian and its relatives
# make help       the rest

PREFIX = /usr/local
DESTDIR =
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
BASH_COMPLETIONS = $(PREFIX)/share/bash-completion/completions
ZSH_COMPLETIONS = $(PREFIX)/share/zsh/site-functions
FISH_COMPLETIONS = $(PREFIX)/share/fish/vendor_completions.d

CARGO = cargo
CARGO_TARGET_DIR ?= target
# Panics name source files: without the builder's own directories.
CARGO_HOME ?= $(HOME)/.cargo
REMAPPED = $(foreach from,$(HOME)=~ $(CARGO_HOME)=cargo $(CURDIR)=lockrun,"--remap-path-prefix=$(from)"$(comma))
comma = ,
BUILD = $(CARGO) build --release --locked --config 'target."cfg(target_os = \"linux\")".rustflags = [$(REMAPPED)]'
# The program to install; made if it is not given.
BINARY =
# The processor and system that the program is for, and where packages go.
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
PACKAGES = $(CARGO_TARGET_DIR)/packages
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
RELEASE = $(CARGO_TARGET_DIR)/$(TARGET)/release/lockrun
TARBALL = lockrun-$(VERSION)-$(TARGET)
# What is packed carries the time of the last commit, so that packing it again gives
# the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
export SOURCE_DATE_EPOCH

# For shells that have not read what rustup wrote into the profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

SHELL_SCRIPTS = .ci/run .ci/apt-install tests/fuzz tests/long tests/linking/all tests/linking/smoke $(wildcard completions/*.bash)
PAGES = $(wildcard man/*.[17])

all: build

help:
	@echo 'build    the program, optimised (the default)'
	@echo 'install  program, manual, completions; PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo 'install-flock  a link by which lockrun is called flock; LINKDIR=/where'
	@echo 'uninstall  remove what install put there, with LINKDIR also the link'
	@echo 'dist     a tarball to unpack in /usr/local, and SHA256SUMS, in $(PACKAGES)'
	@echo 'deb, rpm, wheel  a package for apt, for dnf, for pip, in $(PACKAGES)'
	@echo 'test     the tests'
	@echo 'quick    the tests without the slowest modules'
	@echo 'check    format, lints, tests, manual, shell scripts'
	@echo 'campaign locks under random kills, stops and faults; repeated TIMES=$(TIMES) times'
	@echo 'sweep    an error, and kill -9, at each system call of each command; the same'
	@echo 'fuzz     CASES=$(CASES) changed texts for each reader of what others wrote'
	@echo 'linking  build with every linker that is installed, and try each'
	@echo 'docs     write man/ and completions/ anew from the command line'
	@echo 'pictures draw the pictures in docs/ anew, from a real run'
	@echo 'bench    lockrun beside flock, setlock, s6-setlock and etcdctl lock'
	@echo 'setup    install what check needs, with apt-get and cargo'
	@echo 'clean    remove what was built'

build:
	$(BUILD)

# Under sudo there may be no cargo: then what was built before is installed.
install:
	@binary='$(BINARY)'; \
	if [ -z "$$binary" ]; then \
		if command -v $(CARGO) >/dev/null; then $(BUILD) || exit; fi; \
		binary=$$(ls -t $(CARGO_TARGET_DIR)/*/release/lockrun 2>/dev/null | head -n 1); \
	fi; \
	if [ -z "$$binary" ]; then echo "nothing to install: run 'make build' first" >&2; exit 1; fi; \
	set -x; install -D -m 755 "$$binary" '$(DESTDIR)$(BINDIR)/lockrun'
	install -d '$(DESTDIR)$(MANDIR)/man1' '$(DESTDIR)$(MANDIR)/man7'
	install -m 644 $(filter %.1,$(PAGES)) '$(DESTDIR)$(MANDIR)/man1'
	install -m 644 $(filter %.7,$(PAGES)) '$(DESTDIR)$(MANDIR)/man7'
	install -D -m 644 completions/lockrun.bash '$(DESTDIR)$(BASH_COMPLETIONS)/lockrun'
	install -D -m 644 completions/_lockrun '$(DESTDIR)$(ZSH_COMPLETIONS)/_lockrun'
	install -D -m 644 completions/lockrun.fish '$(DESTDIR)$(FISH_COMPLETIONS)/lockrun.fish'

# Not by default: it stands before util-linux's flock where LINKDIR is first in
# PATH. An absolute link, which also works from a directory of one user.
LINKDIR =
install-flock:
	@if [ -z '$(LINKDIR)' ]; then \
		echo "where? make install-flock LINKDIR=/usr/local/lib/lockrun (and put that first in PATH)" >&2; exit 1; \
	fi
	install -d '$(DESTDIR)$(LINKDIR)'
	@if [ -e '$(DESTDIR)$(LINKDIR)/flock' ] && [ ! -L '$(DESTDIR)$(LINKDIR)/flock' ]; then \
		echo "$(DESTDIR)$(LINKDIR)/flock is a program of its own: it was not replaced" >&2; exit 1; \
	fi
	ln -sf '$(BINDIR)/lockrun' '$(DESTDIR)$(LINKDIR)/flock'

# The same variables as for install. Directories stay: others may use them.
uninstall:
	rm -f '$(DESTDIR)$(BINDIR)/lockrun' $(foreach section,1 7,$(patsubst man/%,'$(DESTDIR)$(MANDIR)/man$(section)/%',$(filter %.$(section),$(PAGES))))
	rm -f '$(DESTDIR)$(BASH_COMPLETIONS)/lockrun' '$(DESTDIR)$(ZSH_COMPLETIONS)/_lockrun' \
		'$(DESTDIR)$(FISH_COMPLETIONS)/lockrun.fish'
	@link='$(DESTDIR)$(LINKDIR)/flock'; \
	if [ -n '$(LINKDIR)' ] && [ "$$(readlink "$$link")" = '$(BINDIR)/lockrun' ]; then rm -f "$$link"; fi

# Files without their directories: unpacking it changes no mode of /usr/local/bin.
tarball: build
	rm -rf '$(PACKAGES)/$(TARBALL)'
	$(MAKE) -s install BINARY='$(RELEASE)' DESTDIR='$(PACKAGES)/' PREFIX='$(TARBALL)'
	install -D -m 644 -t '$(PACKAGES)/$(TARBALL)/share/doc/lockrun' README.md CHANGELOG.md SECURITY.md LICENSE-APACHE LICENSE-MIT
	cd '$(PACKAGES)' && find '$(TARBALL)' -type f | LC_ALL=C sort | \
		tar --create --files-from=- --format=ustar --owner=0 --group=0 --numeric-owner --mtime=@$(SOURCE_DATE_EPOCH) | \
		gzip -9n >'$(TARBALL).tar.gz'
	rm -r '$(PACKAGES)/$(TARBALL)'

# The sums are also of the packages of this version that were made before.
dist: tarball
	cd '$(PACKAGES)' && sha256sum $$(ls | grep -E '^lockrun[-_]$(subst .,\.,$(VERSION))-.*\.(tar\.gz|deb|rpm|whl)$$') >SHA256SUMS

wheel: build
	packaging/wheel '$(RELEASE)' '$(PACKAGES)'

deb: build packagers
	$(CARGO) deb --locked --no-build --target $(TARGET) --output '$(PACKAGES)/' $(DEB_FLAGS)

rpm: build packagers
	mkdir -p '$(PACKAGES)'
	$(CARGO) generate-rpm --target $(TARGET) --target-dir '$(CARGO_TARGET_DIR)' --output '$(PACKAGES)/' $(RPM_FLAGS)

test:
	$(CARGO) test --locked

# All but the modules that take longest: storms, sweeps over system calls, packages.
quick:
	$(CARGO) test --locked --lib
	$(CARGO) test --locked --test it -- $(addprefix --skip ,$(SLOW))

check: tools
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	for features in etcd postgres redis; do \
		$(CARGO) clippy --locked --no-default-features --features "$$features" -- -D warnings || exit; \
	done
	$(CARGO) test --locked
	mandoc -T lint -W warning $(PAGES)
	shellcheck $(SHELL_SCRIPTS)

# With every linker that is installed, static and dynamic, and a smoke test of each.
linking:
	tests/linking/all

docs:
	UPDATE=1 $(CARGO) test --locked --test it -- match_the_command_line the_page_on_stores

pictures: build
	docs/pictures '$(CARGO_TARGET_DIR)/$(TARGET)/release/lockrun' docs

# The long forms: docs/testing.md says how long each takes and how to read it. More by
# TIMES=3, or by calling it again: no two runs meet the same moments.
TIMES = 1
export TIMES
campaign:
	THREADS=1 tests/long '$(CARGO_TARGET_DIR)/campaign.log' $(CAMPAIGNS)

sweep:
	tests/long '$(CARGO_TARGET_DIR)/sweep.log' $(SWEEPS)

# Texts that others may have left, changed at random: CASES for each reader, at about
# 10,000 in a second.
CASES = 300000
fuzz:
	tests/fuzz $(CASES)

bench:
	$(CARGO) bench --locked

clean:
	$(CARGO) clean

# What the tests call or read, and the package that it comes in.
TOOLS = /usr/lib/python3*/ensurepip/__init__.py:python3-venv /usr/sbin/iptables:iptables \
	/usr/lib/python3/dist-packages/jsonschema/__init__.py:python3-jsonschema \
	/usr/share/bash-completion/bash_completion:bash-completion busybox:busybox cc:gcc cpio:cpio cron:cron dash:dash \
	/usr/bin/pg_lsclusters:postgresql-common /usr/lib/postgresql/*/bin/postgres:postgresql /usr/sbin/pgbouncer:pgbouncer \
	/usr/lib/*/faketime/libfaketime.so.1:faketime \
	etcd:etcd-server etcdctl:etcd-client fish:fish flock:util-linux getent:libc-bin ip:iproute2 jq:jq \
	ksh93:ksh93u+m lintian:lintian mandoc:mandoc mksh:mksh node:nodejs openssl:openssl python3:python3 \
	mandb:man-db ps:procps readelf:binutils redis-cli:redis-tools /usr/bin/redis-server:redis-server rpm2cpio:rpm2cpio \
	rpm:rpm script:bsdutils setpriv:util-linux setlock:daemontools shellcheck:shellcheck strace:strace zsh:zsh
tool = $(firstword $(subst :, ,$(1)))
package = $(lastword $(subst :, ,$(1)))
missing = $(strip $(foreach pair,$(TOOLS),\
	$(if $(or $(filter /%,$(wildcard $(call tool,$(pair)))),$(shell command -v $(call tool,$(pair)))),,$(pair))))

tools:
	@missing='$(foreach pair,$(missing),$(call tool,$(pair)))'; \
	for packager in $(PACKAGERS); do \
		name=$${packager%@*}; \
		$(CARGO) $${name#cargo-} --version >/dev/null 2>&1 || missing="$$missing $$name"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "missing: $$missing (on Debian, 'make setup' installs what is missing)" >&2; exit 1; \
	fi

# They are quick enough without being optimised, and sooner there.
packagers:
	@export CARGO_PROFILE_DEV_DEBUG=0; for packager in $(PACKAGERS); do \
		name=$${packager%@*}; \
		$(CARGO) $${name#cargo-} --version >/dev/null 2>&1 || \
			$(CARGO) install --locked --debug "$$packager" || exit; \
	done

setup:
ifneq ($(missing),)
	$(as_root) .ci/apt-install libc6-dev $(foreach pair,$(missing),$(call package,$(pair)))
endif
	@if command -v rustup >/dev/null; then rustup component add rustfmt clippy; fi
	@$(MAKE) packagers

SLOW = asleep:: campaign cron:: errno_sweep:: etcd_ every_engine examples:: kill_points:: messages::a_wait_of_a_minute one_memory:: \
	packages:: pictures:: server_tree:: storm:: system_call token_hand_over:: undisturbed:: witness::
CAMPAIGNS = storm:: campaign::locks
SWEEPS = errno_sweep:: kill_points::
PACKAGERS = cargo-deb@3.8.0 cargo-generate-rpm@0.21.1
as_root = $(if $(filter 0,$(shell id -u)),,sudo)

# 'make setup check' does one after the other, whatever MAKEFLAGS says.
.NOTPARALLEL:
.PHONY: all help build install install-flock uninstall tarball dist wheel deb rpm test quick campaign sweep fuzz check linking docs pictures bench clean tools packagers setup
