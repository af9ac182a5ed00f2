#!/usr/bin/env bash
# From nothing to a three-zone Kubernetes on this machine with Atoll on it: `make up`. Running it again
# changes nothing, or what was changed in stacks/Pulumi.local.yaml. down: `make down`. The state of the
# stack lies beside that of the Kubernetes and goes with it.
set -euo pipefail
cd "$(dirname "$0")/../.."
command=${1:-up}
image=${IMAGE:-localhost/atoll:dev}
state=$HOME/.local/state/atoll/pulumi

localkube=bin/localkube
go build -trimpath -o "$localkube" ./infra/local/cmd/localkube
PATH=$("$localkube" pulumi)
standin=$(go run ./tests/kubeprovider/ensure -out bin/pulumi-standin)
[ -z "$standin" ] || PATH=$standin:$PATH
export PATH
mkdir -p "$state"
# The secrets of a cluster that lives on this machine are as safe as the machine.
export PULUMI_BACKEND_URL=file://$state PULUMI_CONFIG_PASSPHRASE=${PULUMI_CONFIG_PASSPHRASE-} \
    PULUMI_SKIP_UPDATE_CHECK=true PULUMI_AUTOMATION_API_SKIP_VERSION_CHECK=true

case $command in
up)
    # A stack that was deployed on a Kubernetes that is gone would find itself unchanged.
    [ -d "$HOME/.local/state/atoll/atoll" ] || rm -rf "$state"
    mkdir -p "$state"
    # More zones than the stack has, where ZONES says so: for those it may get later. A Kubernetes that runs keeps its own.
    [ -d "$HOME/.local/state/atoll/atoll" ] && ZONES=
    "$localkube" up ${ZONES:+--zones "$ZONES"}
    go run ./infra/image/cmd/atoll-image --name "$image" -o bin/atoll-image.tar
    "$localkube" load bin/atoll-image.tar
    pulumi stack select --create local
    pulumi up --stack local --yes --skip-preview
    pulumi stack output --stack local ca >"$state/atoll-ca.crt"
    connection=$(pulumi stack output --stack local --show-secrets connection)
    echo
    echo "psql '${connection/sslrootcert=atoll-ca.crt/sslrootcert=$state/atoll-ca.crt}'"
    echo "bin/localkube fault kill us-a     # take a zone's power; power-on us-a, or heal, gives it back"
    echo "infra/local/up.sh pulumi preview  # any pulumi command on this stack"
    ;;
down)
    "$localkube" down
    rm -rf "$state"
    ;;
pulumi)
    shift
    exec pulumi "$@" --stack local
    ;;
*)
    echo "up.sh: $command: use up, down or pulumi" >&2
    exit 2
    ;;
esac
