
# The names of the locks in the directory that the line is about.
__lockrun_names() {
    local dir=$1 file name
    if [[ -z $dir ]]; then
        if ((EUID == 0)); then dir=/run/lockrun; else dir=$HOME/.local/state/lockrun; fi
    fi
    for file in "$dir"/*.lock; do
        name=${file##*/}
        name=${name%.lock}
        # What ends in a hash cannot be read back.
        [[ -e $file && $name != *%-* ]] || continue
        printf -v name '%b' "${name//%/\\x}"
        [[ $name == "$cur"* ]] && COMPREPLY+=("$(printf '%q' "$name")")
    done
}

# COMMAND, whose first word is number $1 of the line.
__lockrun_command() {
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        mapfile -t COMPREPLY < <(compgen -c -- "$cur")
    fi
}

_lockrun_line() {
    local cur=$2 prev=$3 dir=${LOCKRUN_DIR-} i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --)
            __lockrun_command $((i + 1))
            return
            ;;
        -d | --dir)
            # --dir=PATH is three words.
            dir=${COMP_WORDS[i + 1]}
            [[ $dir == = ]] && dir=${COMP_WORDS[i + 2]}
            dir=${dir/#\~/$HOME}
            ;;
        esac
    done
    if [[ $cur == = ]]; then
        cur=''
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case ${COMP_WORDS[1]}:$prev:$cur in
    *:-l:* | *:--name:*) __lockrun_names "$dir" ;;
    *:-d:* | *:--dir:* | *:--file:* | *:-t:* | *:--timeout:* | *:--kill-after:* | *:-*) _lockrun "$1" "$cur" "$prev" ;;
    list:* | status:* | wait:* | break:*)
        if ((COMP_CWORD > 1)); then __lockrun_names "$dir"; else _lockrun "$1" "$cur" "$prev"; fi
        ;;
    *)
        _lockrun "$1" "$cur" "$prev"
        # Commands first: options after a dash.
        if ((COMP_CWORD == 1)) && [[ -z $cur ]]; then
            local word words=("${COMPREPLY[@]}")
            COMPREPLY=()
            for word in "${words[@]}"; do [[ $word == -* ]] || COMPREPLY+=("$word"); done
        fi
        ;;
    esac
}

complete -F _lockrun_line -o bashdefault -o default lockrun
