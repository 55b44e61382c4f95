#!/bin/sh
# Builds what tests of the edge's server use if it is there, into .tools: h2spec, and gRPC clients in other languages.
# A language that this machine has not is said and left out.
set -u
cd "$(dirname "$0")/.." || exit 1
tools=$PWD/.tools
mkdir -p "$tools"
failed=0

have() {
    command -v "$1" >/dev/null 2>&1 && return 0
    echo "edge-clients: no $1, so no $2"
    return 1
}

if have go "h2spec and grpc-go"; then
    (cd tests/clients/go &&
        go build -o "$tools/h2spec" github.com/summerwind/h2spec/cmd/h2spec &&
        go build -o "$tools/go-client" .) || failed=1
fi

if have npm "grpc-js"; then
    npm install --silent --no-audit --no-fund --no-save --prefix "$tools/node" @grpc/grpc-js@1.14.7 || failed=1
fi

if have javac "grpc-java" && have mvn "grpc-java"; then
    (cd tests/clients/java &&
        mvn --quiet --batch-mode -Dtools="$tools" compile dependency:copy-dependencies &&
        rm -rf "$tools/java" &&
        mkdir "$tools/java" &&
        cp -r "$tools"/java-build/dependency/*.jar "$tools"/java-build/classes "$tools/java/" &&
        rm -rf "$tools/java-build") || failed=1
fi

ls "$tools"
exit $failed
