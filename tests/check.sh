#!/bin/sh
# All checks, the same for CI and by hand: format, lint, layers, types, tests, coverage.
set -eu
cd "$(dirname "$0")/.."

echo '== format';   ruff format --check .
echo '== lint';     ruff check .
echo '== layers';   lint-imports
echo '== types';    mypy
echo '== tests'
rm -f .coverage .coverage.*
coverage run -m pytest -n auto "$@"
echo '== coverage'
coverage combine --quiet
coverage report
echo '== coverage of the brain: every branch'
coverage report --include='ollama_gate/scheduler/*' --fail-under=100
