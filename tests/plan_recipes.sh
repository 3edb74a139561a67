#!/usr/bin/env bash
# Plan every recipe that is named: plan_recipes.sh RECIPE...
set -euo pipefail
for recipe in "$@"; do
    .venv/bin/python -m compress.run "$recipe" --plan > /dev/null
done
