#!/usr/bin/env bash
# Lints the files of deploy/ and the workflows with the tools in $BIN. What can't be had on a machine is named, not passed over.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rules='{extends: default, rules: {document-start: disable, line-length: {max: 140}, braces: {max-spaces-inside: 1}, truthy: {check-keys: false}}}'
"$bin"/yamllint --strict -d "$rules" deploy .github .pre-commit-config.yaml mkdocs.yml tests/server/mcp/conformance.yml
"$bin"/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yml deploy/compose.cuda.yml
"$bin"/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

# nginx.conf is a part of the block http. Versions of nginx before 1.25.1, as crossplane knows them, have no `http2 on`.
grep -v '^ *http2 on;' deploy/nginx.conf > "$work/server.conf"
printf 'events {}\nhttp { include %s/server.conf; }\n' "$work" > "$work/nginx.conf"
"$bin"/crossplane parse --strict --out "$work/nginx.json" "$work/nginx.conf"
"$bin"/python - "$work/nginx.json" << 'END'
import json, sys
errors = json.load(open(sys.argv[1], encoding="utf-8"))["errors"]
sys.exit("\n".join(f"deploy/nginx.conf: {error['error']}" for error in errors) or 0)
END

if [ -x "$bin/hadolint" ]; then
  "$bin"/hadolint deploy/Dockerfile
else
  echo "not linted: deploy/Dockerfile, as hadolint has no package for this platform" >&2
fi
if command -v systemd-analyze > /dev/null; then
  sed 's#^ExecStart=/opt/sam4mllm/bin/sam4mllm .*#ExecStart=/bin/true#' deploy/sam4mllm.service > "$work/sam4mllm.service"
  systemd-analyze verify "$work/sam4mllm.service" # which wants the program to exist
else
  echo "not linted: deploy/sam4mllm.service, as there is no systemd-analyze" >&2
fi
