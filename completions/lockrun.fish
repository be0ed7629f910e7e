# Made by 'make docs' from src/cli.rs and completions/parts: edit those.

complete -c lockrun -s l -l name -d 'The lock\'s name [default: the command line]' -r -f
complete -c lockrun -l file -d 'Lock exactly this file or directory' -r -F
complete -c lockrun -s d -l dir -d 'The locks directory' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -s t -l timeout -d 'How long to wait; 0: not at all [default: forever]' -r -f
complete -c lockrun -s E -l conflict-exit-code -d 'Exit code instead of 75, 121 and 124' -r -f
complete -c lockrun -s c -d 'Run `/bin/sh -c STRING`' -r -f -a "(__fish_complete_command)"
complete -c lockrun -l expires -d 'End COMMAND, and all it started, after DUR' -r -f
complete -c lockrun -l kill-after -d 'Time between TERM and KILL [default: 10]' -r -f
complete -c lockrun -l hold -d 'Hold the lock until the command or its whole tree has ended' -r -f -a "command\t'Until COMMAND ends'
tree\t'Until everything that it started has ended'"
complete -c lockrun -s n -l nonblock -d 'Do not wait: --timeout 0'
complete -c lockrun -s s -l shared -d 'Share the lock with others who share it'
complete -c lockrun -s q -l quiet -d 'Say nothing about waiting or not getting the lock'
complete -c lockrun -s v -l verbose -d 'Say which file is locked, and waiting and holding times'
complete -c lockrun -l exec -d 'Become COMMAND: no process of lockrun stays'
complete -c lockrun -s h -l help -d 'Print help (see more with \'--help\')'

# The names of the locks in the directory that the line is about.
function __fish_lockrun_names
    set -l words (commandline -opc)
    set -l dir $LOCKRUN_DIR
    if test -z "$dir"
        if test (id -u) -eq 0
            set dir /run/lockrun
        else
            set dir ~/.local/state/lockrun
        end
    end
    for number in (seq (count $words))
        switch $words[$number]
            case -d --dir
                set dir (string replace -r '^~' ~ -- $words[(math $number + 1)])
            case '--dir=*'
                set dir (string replace -r '^~' ~ -- (string replace -- --dir= '' $words[$number]))
        end
    end
    for file in $dir/*.lock
        # What ends in a hash cannot be read back.
        set -l name (string replace -r '.*/(.*)\.lock$' '$1' -- $file)
        string match -q -- '*%-*' $name; or string unescape --style=url -- $name
    end
end

# Whether COMMAND is what is being written.
function __fish_lockrun_in_command
    contains -- -- (commandline -opc)
end

# COMMAND, as if it stood alone.
function __fish_lockrun_command
    set -l words (commandline -opc)
    set -l start (math (contains -i -- -- $words) + 1)
    set -l before (string escape -- $words[$start..])
    complete -C (string join ' ' -- $before (commandline -ct))
end

complete -c lockrun -f
complete -c lockrun -n 'not __fish_lockrun_in_command' -s l -l name -r -f -a '(__fish_lockrun_names)'
complete -c lockrun -n __fish_lockrun_in_command -f -a '(__fish_lockrun_command)'
