# Nodes on one machine, for scripts of bash: each has its own network, host name, System V IPC and
# /dev/shm, and one interface, eth0, on a switch that joins them. Open MPI sees as many hosts, and
# talks TCP between them.
#
#   . nodes.sh; nodes_enter "$0" "$@"; nodes_make 2; nodes_mpirun -n 2 program
#
# All of it lives in namespaces of the script's own, processes included: when the script ends, also
# by SIGKILL, the kernel ends what runs on the nodes and takes back interfaces, mounts and files.
# Nothing of it is visible outside, so that any number of scripts may do this at the same time.

nodes_dir=/run/nodes # in a file system of the script's own, which the nodes see
nodes_pid=()         # a process of each node, which holds its namespaces
nodes_control=''     # how TCP finds its rate

# nodes_enter SCRIPT ARGUMENTS...: starts the script again inside; there it returns. Prints a line
# "SKIP: ..." and exits with 77 where that cannot be.
nodes_enter() {
    local why='' tool flags=(--pid --net --mount --mount-proc --fork --kill-child)
    if [ "${NODES_INSIDE-}" = yes ] && [ $$ -eq 1 ]; then
        unset NODES_INSIDE
        trap 'exit 143' TERM INT # the first process of a namespace has no other answer
        nodes_settle
        return
    fi
    [ "$(id -u)" -eq 0 ] || flags+=(--map-root-user)
    for tool in unshare nsenter ip tc pgrep mpirun; do
        command -v "$tool" >/dev/null || why="there is no $tool"
    done
    [ -n "$why" ] || why=$(unshare "${flags[@]}" sh -c '
        ip link add nodes type bridge && ip link add v0 type veth peer name v1 &&
        mount -t tmpfs none /run && ip netns list' 2>&1 >/dev/null | head -n 1)
    if [ -n "$why" ]; then
        echo "SKIP: ${1##*/}: nodes on one machine need network namespaces: $why"
        exit 77
    fi
    NODES_INSIDE=yes exec unshare "${flags[@]}" bash "$@"
}

# The script's own namespaces: the switch, and a place for files.
nodes_settle() {
    mount -t tmpfs none /run && mkdir -p "$nodes_dir/tmp" && ip link set lo up &&
        ip link add switch type bridge && ip link set switch up || exit 1
    export TMPDIR=$nodes_dir/tmp # Open MPI's files
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    unset OMPI_MCA_rmaps_base_oversubscribe # of tests/run: mpirun takes it or --map-by
    # What mpirun reaches other nodes with, in place of ssh: agent NODE COMMAND
    cat >"$nodes_dir/agent" <<AGENT
#!/bin/sh
node=\$1
shift
exec nsenter --target "\$(cat $nodes_dir/\$node)" --net --uts --ipc --mount sh -c "\$*"
AGENT
    chmod +x "$nodes_dir/agent"
}

# nodes_make N: makes the nodes n0, n1, ... in place of those there were.
nodes_make() {
    local i
    for i in "${!nodes_pid[@]}"; do
        kill -KILL $(nodes_processes "$i" | cut -d' ' -f1) "${nodes_pid[$i]}"
        wait "${nodes_pid[$i]}" 2>/dev/null
        ip link del "veth$i" 2>/dev/null # if the kernel has not yet
    done
    nodes_pid=()
    echo 127.0.0.1 localhost >"$nodes_dir/names"
    : >"$nodes_dir/hostfile"
    for ((i = 0; i < $1; i++)); do
        echo "10.0.0.$((i + 1)) n$i" >>"$nodes_dir/names"
        echo "n$i slots=1" >>"$nodes_dir/hostfile"
    done
    for ((i = 0; i < $1; i++)); do nodes_add "$i" || return; done
}

nodes_add() { # NUMBER
    local i=$1
    unshare --net --uts --ipc --mount sh -c "
        mount -t tmpfs none /dev/shm && mount --bind $nodes_dir/names /etc/hosts &&
        hostname n$i && ip link set lo up && echo \$\$ >$nodes_dir/n$i && exec sleep infinity" &
    nodes_pid[$i]=$!
    until [ -s "$nodes_dir/n$i" ] && [ "$(<"$nodes_dir/n$i")" = "${nodes_pid[$i]}" ]; do
        kill -0 "${nodes_pid[$i]}" || return
        sleep 0.01
    done
    ip link add "veth$i" type veth peer name eth0 netns "${nodes_pid[$i]}" &&
        ip link set "veth$i" mtu 9000 master switch up && # as clusters have it
        nodes_on "$i" ip addr add "10.0.0.$((i + 1))/24" dev eth0 &&
        # A segment a frame, as on a wire: else frames of 64 KiB are counted, with one header.
        nodes_on "$i" ip link set eth0 mtu 9000 up gso_max_segs 1 || return
    # Not by BBR, which some systems have: over a link without delay it keeps four frames on their
    # way and sends each at a time of its own, whatever the link could carry.
    nodes_on "$i" sysctl -qw net.ipv4.tcp_congestion_control=reno 2>/dev/null
    nodes_control=$(nodes_on "$i" sysctl -n net.ipv4.tcp_congestion_control)
}

# nodes_on I COMMAND...: runs it on node I, in the root folder.
nodes_on() { nsenter --target "${nodes_pid[$1]}" --net --uts --ipc --mount -- "${@:2}"; }

# nodes_processes I: number and name of each process that runs on node I, a line each.
nodes_processes() {
    pgrep -l --ns "${nodes_pid[$1]}" --nslist net . | grep -v "^${nodes_pid[$1]} "
}

# nodes_mpirun ARGUMENTS...: mpirun on node 0, one rank a node.
nodes_mpirun() {
    nodes_on 0 mpirun --hostfile "$nodes_dir/hostfile" --map-by node --bind-to none \
        --mca plm_rsh_agent "$nodes_dir/agent" --mca pml ob1 --mca btl tcp,self "$@"
}

# nodes_sent I: bytes that node I has put on the wire, headers of Ethernet, IP and TCP included.
nodes_sent() { nodes_on "$1" awk '$1 == "eth0:" { print $10 }' /proc/net/dev; }

# nodes_shape RATE DELAY: what each node sends leaves at this rate (1gbit) and arrives later by the
# delay (50us). Where the kernel has no netem the rate alone is kept: then nodes_delay is 0.
nodes_shape() {
    local i
    nodes_delay=$2
    for i in "${!nodes_pid[@]}"; do
        nodes_on "$i" tc qdisc replace dev eth0 root netem delay "$2" rate "$1" limit 10000 \
            2>/dev/null && continue
        nodes_delay=0
        nodes_on "$i" tc qdisc replace dev eth0 root tbf rate "$1" burst 64kb latency 100ms ||
            return
    done
}

# nodes_cut I: pulls the cable of node I. nodes_silence I: the switch forwards nothing to it and
# from it, and nobody is told.
nodes_cut() { ip link set "veth$1" down; }
nodes_silence() { ip link set "veth$1" nomaster; }
