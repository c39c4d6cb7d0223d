#!/bin/sh
# Started in the background by the post-commit block of `state-hub hooks install`:
#   post_commit.sh SLUG CLONE BRANCH
# Brings the database up to date with the commit just made (file -> database only). Never fails the commit.
# What it printed last lies in the clone's git folder, in state-hub-hook.log.
slug=$1 clone=$2 branch=$3
home=$(cd "$(dirname "$0")/.." && pwd) || exit 0

# Only the registered clone counts, not a linked worktree of it, and only on the registered branch.
top=$(git rev-parse --show-toplevel 2>/dev/null) || exit 0
[ "$top" = "$clone" ] || exit 0
[ "$(git symbolic-ref --quiet HEAD)" = "refs/heads/$branch" ] || exit 0

# In the middle of a rebase or merge each commit is a step, not news.
folder=$(git rev-parse --absolute-git-dir) || exit 0
for step in rebase-merge rebase-apply MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD; do
    [ ! -e "$folder/$step" ] || exit 0
done

# The hub's own commits tell it nothing new.
[ -z "$(git log -1 --format='%(trailers:key=State-Hub-Writeback)')" ] || exit 0

# git tells hooks where they are by variables that would lead every other git command there too.
# shellcheck disable=SC2046 # one name per word
unset $(git rev-parse --local-env-vars)
unset GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE GIT_COMMITTER_DATE GIT_EDITOR GIT_REFLOG_ACTION GIT_EXEC_PATH
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

REPO=$slug
export REPO
exec setsid timeout -k 5 60 make --no-print-directory -C "$home" fix-consistency \
    </dev/null >"$folder/state-hub-hook.log" 2>&1
