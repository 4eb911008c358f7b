.PHONY: help install test check

help:      ## this list
	@grep -E '^[a-z]+: *##' $(MAKEFILE_LIST) | sed 's/: *##/\t/'

install:   ## install redi and its test tools into the active environment
	uv pip install -e '.[test]'

check:     ## style and types
	ruff check . && ruff format --check . && mypy

test: check ## everything that has to pass
	pytest
