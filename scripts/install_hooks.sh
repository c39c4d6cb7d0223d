#!/bin/sh
# Installs the post-commit hook into every registered repo, or into those named:
#   scripts/install_hooks.sh [SLUG]...
home=$(cd "$(dirname "$0")/.." && pwd) || exit 1
[ $# -gt 0 ] || set -- --all
exec "$home/.venv/bin/state-hub" hooks install --home "$home" "$@"
