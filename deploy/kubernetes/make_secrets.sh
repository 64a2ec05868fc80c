#!/bin/sh
# The Secrets of an installation, as manifests:
#
#   deploy/kubernetes/make_secrets.sh NAMESPACE FOLDER | kubectl apply -n NAMESPACE -f -
#
# deploy/security/make.py makes certificates, passwords, and the rights of each user in FOLDER, which is to be kept, and not
# in git: with the same folder, everything stays as it is but for the servers' certificates, which are made anew. A file
# that is put into FOLDER/producer or FOLDER/consumer under the name of a setting, such as sdqueue_slack_bot_token, becomes
# that setting. Needs python3, openssl and kubectl; asks no cluster.
set -eu
[ $# = 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
namespace=$1 folder=$2
umask 077
python3 "$(dirname "$0")/../security/make.py" "$folder" --servers-at /etc/sdqueue --clients-at /etc/sdqueue \
	--rabbitmq "sdqueue-rabbitmq,sdqueue-rabbitmq.$namespace.svc" --redis "sdqueue-redis,sdqueue-redis.$namespace.svc" >&2

word() { openssl rand -hex 32; }
[ -e "$folder/producer/sdqueue_webchat_secrets" ] || printf %s "$(word)" >"$folder/producer/sdqueue_webchat_secrets"
[ -e "$folder/producer/sdqueue_openai_keys" ] || printf '{"first": "%s"}' "$(word)" >"$folder/producer/sdqueue_openai_keys"

secret() { # $1 its name; then what it is made of
	echo ---
	name=$1; shift
	kubectl create secret generic "$name" --dry-run=client -o yaml "$@"
}
for role in consumer producer operator; do secret "sdqueue-$role" --from-file="$folder/$role"; done
for server in rabbitmq redis; do secret "sdqueue-$server" --from-file="$folder/$server"; done
secret sdqueue-monitor --from-literal=host="https://sdqueue-rabbitmq.$namespace.svc:15671/sdqueue" \
	--from-literal=username=sdqueue-monitor --from-file=password="$folder/passwords/sdqueue-monitor" \
	--from-literal=tls=enable --from-file=ca="$folder/monitor/ca.pem"
