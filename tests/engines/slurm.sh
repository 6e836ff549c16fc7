#!/usr/bin/env bash
# A real Slurm on this machine alone, by hand (a container has no systemd): munge, slurmctld and slurmd on the loopback
# address, all files in one folder. As root, with Debian's packages: slurmctld slurmd slurm-client munge.
#   slurm.sh start FOLDER   then: export SLURM_CONF=FOLDER/slurm.conf
#   slurm.sh stop FOLDER
set -euo pipefail
action=$1 folder=$2

start() {
  local port=$((20000 + RANDOM % 10000))
  mkdir -p "$folder"/{state,spool}
  chmod 755 "$folder"
  [[ -f $folder/munge.key ]] || (umask 077 && dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none)
  # munge refuses a socket in a folder that others may write to, which the one it is in (/tmp, say) mostly is
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
  cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
CryptoType=crypto/munge
# how long a requeued job waits; 120 s as delivered
AuthInfo=socket=$folder/munge.socket,cred_expire=10
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/slurmd.pid
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
# a task's end is noticed soon
KillWait=30
MinJobAge=300
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(env -u OMP_NUM_THREADS nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512)) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF=$folder/slurm.conf
  echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
  slurmctld
  slurmd
  for _ in $(seq 100); do
    [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]] && return
    sleep 0.2
  done
  echo "Slurm did not come up:" >&2
  tail -n 20 "$folder"/*.log >&2
  exit 1
}

stop() {
  for name in slurmd slurmctld munged; do
    [[ -f $folder/$name.pid ]] && kill "$(<"$folder/$name.pid")" 2>/dev/null || true
  done
}

"$action"
