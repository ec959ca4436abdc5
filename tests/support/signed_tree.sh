#!/usr/bin/env bash
# A little DNS with a signed root of its own, for tests on loopback. Needs nsd, unbound and ldnsutils (packages of Debian), not root.
#
#   signed_tree.sh FOLDER PORT
#
# Makes zones, keys and signatures in FOLDER, and configuration for three servers on 127.0.0.1, to be started by the caller with
# `nsd -d -c FOLDER/nsd.conf` and `unbound -d -p -c FOLDER/unbound-*.conf`:
#
#   PORT      nsd: all zones
#   PORT + 1  unbound that validates from FOLDER/anchor
#   PORT + 2  unbound that does not validate and passes signatures on
set -euo pipefail
folder=$1 port=$2
for command in nsd:nsd unbound:unbound ldns-signzone:ldnsutils ldns-keygen:ldnsutils ldns-key2ds:ldnsutils; do
    command -v "${command%%:*}" >/dev/null || { echo "no ${command%%:*}: install the package ${command#*:}" >&2 && exit 69; }
done
mkdir -p "$folder" && cd "$folder"

day() { date -u -d "$1 days" +%Y%m%d%H%M%S; }
key() { ldns-keygen -r /dev/urandom -a ECDSAP256SHA256 -k "$1"; }
spki=7f83b1657ff1fc53b92dc18148a1d65dfc2d4b1fa3d677284addd200126d9069

# begin NAME: the zone's first lines, into NAME.zone.
begin() {
    printf '%s\n' "\$ORIGIN $1" '$TTL 60' '@ IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60' '@ IN NS ns.test.' >"$1zone"
}
# sign NAME [SIGNER OPTIONS]: into NAME.zone.signed, with the DS record for the parent in NAME.ds.
sign() {
    local zone=$1 secret
    shift
    secret=$(key "$zone")
    ldns-key2ds -n -2 "$secret.key" >"$zone"ds
    ldns-signzone "$@" -f "$zone"zone.signed "$zone"zone "$secret"
    cp "$secret.key" "$zone"key
}
# children NAME CHILD...: delegations below NAME, signed where the child is.
children() {
    local zone=$1 child
    shift
    for child in "$@"; do
        echo "$child IN NS ns.test." >>"$zone"zone
        [ ! -e "$child"ds ] || cat "$child"ds >>"$zone"zone
    done
}

# Everything in order; denial by NSEC.
begin good.test.
cat >>good.test.zone <<END
@       MX 10 mx
@       MX 20 alias
@       MX 30 outside
@       MX 40 notlsa
mx      A 192.0.2.1
mx      AAAA 2001:db8::1
alias   CNAME mx
outside CNAME mx.plain.test.
notlsa  A 192.0.2.2
_25._tcp.mx      TLSA 3 1 1 $spki
_25._tcp.outside TLSA 3 1 1 $spki
_mta-sts         TXT "v=STSv1; " "id=20260101;"
_smtp._tls       TXT "v=TLSRPTv1; rua=mailto:tls@good.test"
other            MX 10 mx
renamed          CNAME other
*.wild           MX 10 mx
*.wildhost       A 192.0.2.3
*.wildalias      CNAME mx.plain.test.
wildaliasmx      MX 10 a.wildalias
_25._tcp.a.wildhost TLSA 3 1 1 $spki
nullmx           MX 0 .
implicit         A 192.0.2.4
justtext         TXT "neither mail nor addresses"
wildmx           MX 10 b.wildhost
_smtp._tls.big   TXT "v=TLSRPTv1; rua=mailto:$(printf 'x%.0s' {1..200})" "$(printf 'y%.0s' {1..250})" "$(printf 'z%.0s' {1..250})" "$(printf 'z%.0s' {1..250})" "$(printf 'z%.0s' {1..250})" "$(printf 'z%.0s' {1..200})@good.test"
moved            DNAME good.test.
END
sign good.test.

# The same by NSEC3, and by NSEC3 with opt-out.
for zone in nsec3.test. optout.test.; do
    begin $zone
    printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.5' "_25._tcp.mx TLSA 3 1 1 $spki" 'none MX 10 host' 'host A 192.0.2.6' \
        '*.wild MX 10 mx' >>${zone}zone
done
begin sub.optout.test.
echo '@ MX 10 mx.optout.test.' >>sub.optout.test.zone
children optout.test. sub.optout.test.
sign nsec3.test. -n -t 0
sign optout.test. -n -p -t 0

# Not signed, and the parent proves it. Its TLSA records mean nothing.
begin plain.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.7' "_25._tcp.mx TLSA 3 1 1 $spki" 'tosecure MX 10 mx.good.test.' >>plain.test.zone

# Signed, and then changed: the MX record; the TLSA record only.
begin bogus.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.8' >>bogus.test.zone
sign bogus.test.
sed -i -E 's/(\sMX\s+)10 /\111 /' bogus.test.zone.signed
begin bogustlsa.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.9' "_25._tcp.mx TLSA 3 1 1 $spki" >>bogustlsa.test.zone
sign bogustlsa.test.
sed -i "s/7f83b165/00000000/" bogustlsa.test.zone.signed

# Signed, and then the IPv6 address changed: that of IPv4 and the TLSA record hold.
begin halfbogus.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.14' 'mx AAAA 2001:db8::14' "_25._tcp.mx TLSA 3 1 1 $spki" >>halfbogus.test.zone
sign halfbogus.test.
sed -i 's/2001:db8::14/2001:db8::15/' halfbogus.test.zone.signed

# Signed until five days ago: unbound forgives one.
begin expired.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.10' >>expired.test.zone
sign expired.test. -i "$(day -20)" -e "$(day -5)"

# The parent vouches for another key; and for keys of a zone that is served without any signature.
begin otherkey.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.11' >>otherkey.test.zone
sign otherkey.test.
ldns-key2ds -n -2 "$(key otherkey.test.).key" >otherkey.test.ds
begin stripped.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.12' >>stripped.test.zone
sign stripped.test.
mv stripped.test.zone stripped.test.zone.signed

# Signed, but without its proofs of absence.
begin unproved.test.
printf '%s\n' '@ MX 10 mx' 'mx A 192.0.2.13' >>unproved.test.zone
sign unproved.test.
sed -i -E '/\s(NSEC|RRSIG\s+NSEC)\s/d' unproved.test.zone.signed

zones=(good.test. nsec3.test. optout.test. plain.test. bogus.test. bogustlsa.test. halfbogus.test. expired.test. otherkey.test. stripped.test. unproved.test.)
begin test.
echo 'ns A 127.0.0.1' >>test.zone
children test. "${zones[@]}"
sign test.
printf '%s\n' '$ORIGIN .' '$TTL 60' '. IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60' '. IN NS ns.test.' 'test. IN NS ns.test.' \
    'ns.test. IN A 127.0.0.1' >root.zone
cat test.ds >>root.zone
secret=$(key .)
ldns-signzone -f root.zone.signed root.zone "$secret"
cp "$secret.key" anchor

zones+=(test. sub.optout.test.)
{
    printf '%s\n' 'server:' " ip-address: 127.0.0.1@$port" ' username: ""' ' chroot: ""' " zonesdir: \"$folder\"" ' database: ""' \
        " pidfile: \"$folder/nsd.pid\"" " xfrdfile: \"$folder/xfrd.state\"" " xfrdir: \"$folder\"" " zonelistfile: \"$folder/zone.list\"" ' server-count: 1' \
        ' cookie-secret-file: ""' ' tcp-count: 50' 'remote-control:' ' control-enable: no' 'zone:' ' name: "."' ' zonefile: root.zone.signed'
    for zone in "${zones[@]}"; do
        file=${zone}zone
        [ ! -e "$file.signed" ] || file=$file.signed
        printf '%s\n' 'zone:' " name: \"$zone\"" " zonefile: $file"
    done
} >nsd.conf
unbound_conf() {
    printf '%s\n' 'server:' ' interface: 127.0.0.1' " port: $2" ' username: ""' ' chroot: ""' " directory: \"$folder\"" ' use-syslog: no' \
        ' do-not-query-localhost: no' ' do-ip6: no' ' num-threads: 1' ' ede: yes' ' pidfile: ""' ' val-log-level: 1' \
        ' local-zone: "test." nodefault' ' harden-below-nxdomain: no' ' aggressive-nsec: no' "$3" 'remote-control:' ' control-enable: no'
    for zone in . "${zones[@]}"; do
        printf '%s\n' 'stub-zone:' " name: \"$zone\"" " stub-addr: 127.0.0.1@$port" ' stub-no-cache: no'
    done >>"unbound-$1.stubs"
    cat "unbound-$1.stubs"
}
unbound_conf validating $((port + 1)) " trust-anchor-file: \"$folder/anchor\"" >unbound-validating.conf
unbound_conf plain $((port + 2)) ' module-config: "iterator"' >unbound-plain.conf
