#!/usr/bin/env bash
# Makes a certificate authority for tests, and with it good and spoilt certificates for mail hosts and clients.
#
#     certs/make.sh DIRECTORY [NAME...]
#
# The certificates are for all NAMEs (mx1.clinic.example if none is given). Every FILE.pem has its key in FILE.key and begins
# with the host's own certificate, followed by what leads to the root. Needs openssl 1.1.1 or later, and no network.
#
#     root            the root, for --ca-file and --client-ca          sub   the authority below it that issues
#     good good-rsa   as they should be: ECDSA P-256, RSA 2048
#     wildcard        good, for any host beside the first NAME
#     dane-ta         good, and the root is presented too (RFC 7672 section 3.1.2 wants that)
#     expired not-yet-valid wrong-name cn-only self-signed unknown-ca no-sub     what each is called, and nothing else is wrong
#     client client-server-eku client-expired client-unknown-ca                  to be presented by clients
#
# Then prints the TLSA records (RFC 6698) of each, as `FILE usage selector matching data`.
# The keys are worth nothing: whoever can read the directory has them. Never trust this root where real mail goes.

set -euo pipefail
umask 077

[ $# -ge 1 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 64; }
directory=$1
shift
[ $# -gt 0 ] || set -- mx1.clinic.example
[ ! -e "$directory/root.key" ] || {
    echo "$0: $directory holds an authority already; remove it, or name another directory" >&2
    exit 73
}
mkdir -p "$directory"
cd "$directory"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

first=$1
names=
for name; do names=${names:+$names,}DNS:$name; done

# What the next certificate is to be; each call below sets what it wants differently, for itself alone.
san=$names eku=serverAuth from=20200101000000Z until=20491231235959Z algorithm=ec

# Runs openssl, and shows what it says only if it fails.
quietly() {
    openssl "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 70; }
}

key() { # FILE
    case $algorithm in
        ec) quietly genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" ;;
        rsa) quietly genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1.key" ;;
    esac
}

sign() { # ISSUER FILE COMMON-NAME EXTENSION...: by `openssl ca`, because it takes any dates; by itself where ISSUER is FILE
    local issuer=$1 file=$2 subject=$3 with=(-cert "$1.pem")
    shift 3
    [ "$issuer" != "$file" ] || with=(-selfsign)
    : >"$work/issued"
    {
        printf '[ca]\ndefault_ca = own\n[own]\nnew_certs_dir = %s\ndatabase = %s/issued\n' "$work" "$work"
        printf 'rand_serial = yes\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = optional\n'
        printf '[request]\ndistinguished_name = none\n[none]\n[extensions]\nsubjectKeyIdentifier = hash\n'
        printf '%s\n' "$@"
    } >"$work/config"
    quietly req -new -config "$work/config" -section request -key "$file.key" -subj "/CN=$subject" -out "$work/request"
    quietly ca -batch -notext -config "$work/config" "${with[@]}" -keyfile "$issuer.key" -in "$work/request" \
        -extensions extensions -startdate "$from" -enddate "$until" -out "$file.pem"
}

authority() { # ISSUER FILE COMMON-NAME
    key "$2"
    sign "$1" "$2" "$3" 'basicConstraints = critical, CA:true' 'keyUsage = critical, keyCertSign, cRLSign'
}

host() { # ISSUER FILE
    key "$2"
    sign "$1" "$2" "$first" 'basicConstraints = critical, CA:false' 'keyUsage = critical, digitalSignature' \
        "extendedKeyUsage = $eku" ${san:+"subjectAltName = $san"}
}

below_sub() { # FILE: and what leads to the root
    host sub "$1"
    cat sub.pem >>"$1.pem"
}

authority root root 'Test root'
authority root sub 'Test authority'
authority unknown unknown 'Unknown root'

below_sub good
algorithm=rsa below_sub good-rsa
san=DNS:*.${first#*.} below_sub wildcard
below_sub dane-ta
cat root.pem >>dane-ta.pem

from=20190301000000Z until=20200301000000Z below_sub expired
from=29990301000000Z until=29991231235959Z below_sub not-yet-valid
san=DNS:wrong.name.example below_sub wrong-name
san='' below_sub cn-only
host self-signed self-signed
host unknown unknown-ca
host sub no-sub

eku=clientAuth below_sub client
eku=serverAuth below_sub client-server-eku
eku=clientAuth from=20190301000000Z until=20200301000000Z below_sub client-expired
eku=clientAuth host unknown client-unknown-ca

tlsa() { # USAGE FILE
    local whole key
    whole=$(openssl x509 -in "$2.pem" -outform DER | openssl dgst -sha256 -r)
    key=$(openssl x509 -in "$2.pem" -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -r)
    printf '%-18s %s 0 1 %s\n%-18s %s 1 1 %s\n' "$2" "$1" "${whole%% *}" "$2" "$1" "${key%% *}"
}

tlsa 2 root
tlsa 2 sub
for file in good good-rsa wildcard dane-ta expired not-yet-valid wrong-name cn-only self-signed unknown-ca no-sub; do
    tlsa 3 "$file"
done
