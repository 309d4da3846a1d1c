#!/usr/bin/env bash
# Runs the protocol's official conformance runner against the MCP server, in both eras. Needs npx and Node.js 22 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
port=8765 url=http://127.0.0.1:8765/mcp/
.venv/bin/python -m tests.server.mcp.mcp_servers $port &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 120); do
  (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null && break
  sleep 0.5
done
results=$(mktemp -d)
for revision in "" "--requirements 2026-07-28"; do
  # shellcheck disable=SC2086 # no revision is no word
  npx --yes @modelcontextprotocol/conformance@0.2.0-alpha.12 server --url $url $revision --output-dir "$results" \
    --expected-failures tests/server/mcp/conformance.yml
done
