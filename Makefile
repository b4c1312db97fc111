# Everything is run through these targets, by people and by CI alike.
.DEFAULT_GOAL := help
SHELL := /bin/sh
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin
PYTHON ?= python3
# what stays on this machine needs nobody's proxy
export no_proxy := localhost,127.0.0.1,$(or $(no_proxy),$(NO_PROXY))
export NO_PROXY := $(no_proxy)
# as it was typed: a $ in a password is no variable of make's
ifdef CAMERA
override CAMERA := $(value CAMERA)
export CAMERA
endif

help: ## what can be made
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/demo certs/ready ## the whole pipeline here; CAMERA=0, CAMERA=rtsp://... or CAMERA=my.mp4 for your own
	@python -m tests.demo

model: .venv/demo ## fetch the YuNet face detection model, by its checksum, into face.onnx
	@python -m tests.model

# Tests wait more than they compute: twice as many at once as there are processors. In the order of the names, by which
# the longest, chaos, begins early
test: JOBS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
test: .venv/ready ## all tests that need no container engine; JOBS=1: one after the other
	@tests/system browser
	pytest -n $(JOBS) --no-loadscope-reorder

lint: .venv/ready ## style, types, shell scripts, workflows
	ruff check .
	ruff format --check .
	mypy
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	check-jsonschema --builtin-schema vendor.renovate .github/renovate.json
	zizmor --quiet --offline .github
	shellcheck mosquitto/certs mosquitto/run-local cloud/up cloud/down cloud/assume-role tests/system tests/docker/run tests/docker/stand-ins .ci/by-digest

bench: .venv/ready ## what it costs and how fast it is, next to a peer in the same run
	@tests/system bench
	python -m tests.bench.detection
	python -m tests.bench.sink
	python -m tests.bench.latency
	python -m tests.bench.spool

fleet: .venv/ready ## FLEET= (1000) real bridges on one cloud broker, and how soon all are back after it was killed
	@tests/system bench
	python -m tests.bench.fleet

chaos: .venv/ready ## kill, cut, hang and wipe everything, then count: SEED= replays, FACES= (2000), FAULTS=, RECEIPTS=off
	python -m tests.chaos

status: .venv/demo ## what each service said last: MQTT_HOST=, MQTT_PORT=; MQTT_PORT=8884 MQTT_CERTS=certs/operator: the fleet
	@# several brokers, with spaces between, are several tables; the worst of them counts
	@worst=0; for host in $${MQTT_HOST:-''}; do for port in $${MQTT_PORT:-''}; do \
	  case "$$MQTT_HOST$$MQTT_PORT" in *" "*) echo "$$host:$$port" ;; esac; \
	  env $${host:+MQTT_HOST=$$host} $${port:+MQTT_PORT=$$port} python -m logger --status || \
	  { status=$$?; [ $$status -le $$worst ] || worst=$$status; }; done; done; exit $$worst

test-docker: .venv/ready ## images, cloud/up and the edge as real containers; DOCKER=--if-possible skips without an engine
	tests/docker/run $(DOCKER)

test-arm64: .venv/ready ## the images for arm64, run by qemu on this machine: same faces as here; DOCKER=--if-possible as above
	PLATFORM=linux/arm64 tests/docker/run $(DOCKER)

images: ## build the three images; BUILD_ARGS=--build-arg ...
	docker build $(BUILD_ARGS) -f detector/Dockerfile -t faces-detector:dev .
	docker build $(BUILD_ARGS) -f logger/Dockerfile -t faces-logger:dev .
	docker build $(BUILD_ARGS) -f s3sink/Dockerfile -t faces-s3sink:dev .

lock: .venv/ready ## each image's packages with their hashes, from what requirements.in names
	@for service in detector logger s3sink; do uv pip compile --quiet --universal --python-version 3.10 \
	  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	  $$service/requirements.in -o $$service/requirements.txt; done

K3S ?= sudo k3s
k3s-images: ## hand them to the K3s on this machine; K3S="ssh pi@raspberrypi sudo k3s": to another's
	docker save faces-detector:dev faces-logger:dev faces-s3sink:dev | $(K3S) ctr images import -

# ---- what the above need; each says what it installs -------------------------------------------------------

# of two at once in this folder the second waits, and finds all there; macOS has no flock
one_at_a_time := $(if $(shell command -v flock),flock Makefile)

# packages of the system: Mosquitto, and what opencv-python's wheel links to; quick when nothing is missing
system:
	@PYTHON=$(PYTHON) $(one_at_a_time) tests/system

# two steps, so that the demo does not wait for what only the tests need
.venv/demo: tests/demo-requirements.txt $(wildcard */requirements.in) | system
	@echo "installing Python packages into .venv, from $<"
	@[ -x .venv/bin/python ] || $(one_at_a_time) $(PYTHON) -m venv .venv
	@$(one_at_a_time) pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/ready: tests/requirements.txt .venv/demo
	@echo "installing Python packages into .venv, from $<"
	@$(one_at_a_time) pip install --quiet --disable-pip-version-check -r $<
	@# which would have an older paho
	@$(one_at_a_time) pip install --quiet --disable-pip-version-check --no-deps mqtt-exporter==1.12.1
	@touch $@

certs/ready: mosquitto/certs
	@mosquitto/certs server && mosquitto/certs device jetson-01 && mosquitto/certs sink && mosquitto/certs operator
	@touch $@

clean: ## remove what was made here: .venv, certs, spool, var
	rm -rf .venv certs spool var

.PHONY: help demo model test lint bench fleet chaos status test-docker test-arm64 images lock k3s-images clean system
