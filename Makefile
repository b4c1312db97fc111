# Everything is run through these targets, by people and by CI alike.
.DEFAULT_GOAL := help
SHELL := /bin/sh
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin
PYTHON ?= python3

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/ready certs/ready ## the whole pipeline on this machine; CAMERA=0, rtsp://... or my.mp4 for your own
	@python -m tests.demo

test: .venv/ready ## all tests that need no container engine
	pytest

lint: .venv/ready ## style and types
	ruff check .
	ruff format --check .
	mypy

# ---- what the above need; each says what it installs -------------------------------------------------------

# packages of the system: Mosquitto, and what opencv-python's wheel links to; quick when nothing is missing
system:
	@PYTHON=$(PYTHON) tests/system

.venv/ready: $(wildcard */requirements.txt) | system
	@echo "installing Python packages into .venv, from tests/requirements.txt"
	@[ -x .venv/bin/python ] || $(PYTHON) -m venv .venv
	@pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

certs/ready: mosquitto/certs
	@mosquitto/certs server && mosquitto/certs device jetson-01 && mosquitto/certs sink && mosquitto/certs operator
	@touch $@

clean: ## remove what was made here: .venv, certs, var
	rm -rf .venv certs var

.PHONY: help demo test lint clean system
