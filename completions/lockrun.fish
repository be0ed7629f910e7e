# Made by 'make docs' from src/cli and completions/parts: edit those.

# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_lockrun_global_optspecs
    string join \n l/name= file= d/dir= store= t/timeout= n/nonblock s/shared slots= slot= max-waiters= replace reentrant E/conflict-exit-code= q/quiet v/verbose c= exec expires= kill-after= hold= at-least= report= h/help V/version
end

function __fish_lockrun_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_lockrun_global_optspecs) -- $cmd 2>/dev/null
    or return 0
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_lockrun_using_subcommand
    set -l cmd (__fish_lockrun_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c lockrun -n "__fish_lockrun_needs_command" -s l -l name -a '(__fish_lockrun_names)' -d 'The lock\'s name [default: the command line]' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -l file -d 'Lock exactly this file or directory' -r -F
complete -c lockrun -n "__fish_lockrun_needs_command" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_needs_command" -l store -d 'Lock on an etcd server [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_needs_command" -s t -l timeout -d 'Longest wait; 0: none [env: LOCKRUN_TIMEOUT]' -r -f -a "0\t''
10s\t''
1m\t''
10m\t''
1h\t''
forever\t''"
complete -c lockrun -n "__fish_lockrun_needs_command" -l slots -d 'Take one of N slots: up to N holders at once' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -l slot -d 'With --slots N: exactly slot K modulo N' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -l max-waiters -d 'Fail at once if N are waiting; 0: never wait' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -s E -l conflict-exit-code -d 'Exit code instead of 75, 121 and 124' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -s c -d 'Run \'/bin/sh -c STRING\' as COMMAND' -r -f -a "(__fish_complete_command)"
complete -c lockrun -n "__fish_lockrun_needs_command" -l expires -d 'After DUR, end COMMAND and everything it started' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -l kill-after -d 'Time between TERM and KILL [default: 10]' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -l hold -d 'Hold until the command or its whole tree ends' -r -f -a "command\t'Until COMMAND ends'
tree\t'Until everything that it started has ended'"
complete -c lockrun -n "__fish_lockrun_needs_command" -l at-least -d 'On a server: keep the lock for at least DUR' -r -f
complete -c lockrun -n "__fish_lockrun_needs_command" -l report -d 'Append one line of JSON about the run to FILE' -r -F
complete -c lockrun -n "__fish_lockrun_needs_command" -s n -l nonblock -d 'Do not wait: --timeout 0'
complete -c lockrun -n "__fish_lockrun_needs_command" -s s -l shared -d 'Take a shared (read) lock'
complete -c lockrun -n "__fish_lockrun_needs_command" -l replace -d 'Stop the current holder and take the lock next'
complete -c lockrun -n "__fish_lockrun_needs_command" -l reentrant -d 'Run at once under a command that holds the lock'
complete -c lockrun -n "__fish_lockrun_needs_command" -s q -l quiet -d 'Print nothing about waiting or giving up'
complete -c lockrun -n "__fish_lockrun_needs_command" -s v -l verbose -d 'Print the path, waiting and holding times'
complete -c lockrun -n "__fish_lockrun_needs_command" -l exec -d 'Become COMMAND: no lockrun process stays'
complete -c lockrun -n "__fish_lockrun_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lockrun -n "__fish_lockrun_needs_command" -s V -l version -d 'Print version'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "acquire" -d 'Take a lock for a token, or on a descriptor'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "release" -d 'Release the locks of tokens, or of a descriptor'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "renew" -d 'Extend the expiry of a token\'s lock, or of the run around us'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "check" -d 'Check whether a token\'s or descriptor\'s lock is still held'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "list" -d 'List locks: who holds them, how many wait, how the last run ended'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "status" -d 'Tell whether a lock is free'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "wait" -d 'Wait until locks are free, without taking them'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "break" -d 'Make the holder of a lock release it'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "prune" -d 'Remove unused lock files, and print their names'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "path" -d 'Create the lock file of NAME safely, and print its path'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "flock" -d 'Lock with flock(1)\'s own command line'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "completions" -d 'Print shell completions'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "run" -d 'Run a command under a lock'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "help" -d 'Show the help of a command'
complete -c lockrun -n "__fish_lockrun_needs_command" -f -a "version" -d 'Print the version'
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s l -l name -a '(__fish_lockrun_names)' -d 'The lock\'s name [default: the command line]' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l file -d 'Lock exactly this file or directory' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l store -d 'Lock on an etcd server [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s t -l timeout -d 'Longest wait; 0: none [env: LOCKRUN_TIMEOUT]' -r -f -a "0\t''
10s\t''
1m\t''
10m\t''
1h\t''
forever\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l slots -d 'Take one of N slots: up to N holders at once' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l slot -d 'With --slots N: exactly slot K modulo N' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l max-waiters -d 'Fail at once if N are waiting; 0: never wait' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s E -l conflict-exit-code -d 'Exit code instead of 75, 121 and 124' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l fd -d 'Lock the caller\'s own descriptor N' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l env-file -d 'Append LOCKRUN_TOKEN=TOKEN to FILE, print no token' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l owner -d 'Release the lock when process PID ends' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l expires -d 'Release the lock after DUR; \'forever\': never' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s n -l nonblock -d 'Do not wait: --timeout 0'
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s s -l shared -d 'Take a shared (read) lock'
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l replace -d 'Stop the current holder and take the lock next'
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -l reentrant -d 'Run at once under a command that holds the lock'
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s q -l quiet -d 'Print nothing about waiting or giving up'
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s v -l verbose -d 'Print the path, waiting and holding times'
complete -c lockrun -n "__fish_lockrun_using_subcommand acquire" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lockrun -n "__fish_lockrun_using_subcommand release" -l fd -d 'Unlock the caller\'s own descriptor N' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand release" -l store -d 'The server of a server\'s token [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand release" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lockrun -n "__fish_lockrun_using_subcommand renew" -l expires -d 'Expire DUR from now; \'forever\': never' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand renew" -l store -d 'The server of a server\'s token [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand renew" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lockrun -n "__fish_lockrun_using_subcommand check" -l fd -d 'Check the caller\'s own descriptor N' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand check" -l store -d 'The server of a server\'s token [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand check" -l json -d 'Print name, slot, fence, expires and remaining seconds as JSON'
complete -c lockrun -n "__fish_lockrun_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lockrun -n "__fish_lockrun_using_subcommand list" -s l -l name -a '(__fish_lockrun_names)' -d 'The same, also for a name that begins with \'-\'' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand list" -l file -d 'The lock on this file or directory' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand list" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand list" -l store -d 'A server instead: etcd://HOST,HOST [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand list" -l held -d 'Only locks that are held'
complete -c lockrun -n "__fish_lockrun_using_subcommand list" -l json -d 'Print JSON, with every holder'
complete -c lockrun -n "__fish_lockrun_using_subcommand list" -s h -l help -d 'Print help'
complete -c lockrun -n "__fish_lockrun_using_subcommand status" -s l -l name -a '(__fish_lockrun_names)' -d 'The same, also for a name that begins with \'-\'' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand status" -l file -d 'The lock on this file or directory' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand status" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand status" -l store -d 'A server instead: etcd://HOST,HOST [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand status" -s h -l help -d 'Print help'
complete -c lockrun -n "__fish_lockrun_using_subcommand wait" -s l -l name -a '(__fish_lockrun_names)' -d 'The same, also for a name that begins with \'-\'' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand wait" -l file -d 'The lock on this file or directory' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand wait" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand wait" -l store -d 'A server instead: etcd://HOST,HOST [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand wait" -s t -l timeout -d 'Longest wait [default: forever]' -r -f -a "0\t''
10s\t''
1m\t''
10m\t''
1h\t''
forever\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand wait" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lockrun -n "__fish_lockrun_using_subcommand break" -s l -l name -a '(__fish_lockrun_names)' -d 'The same, also for a name that begins with \'-\'' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand break" -l file -d 'The lock on this file or directory' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand break" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand break" -l store -d 'A server instead: etcd://HOST,HOST [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand break" -l kill-after -d 'Time between TERM and KILL [default: 10]' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand break" -s h -l help -d 'Print help'
complete -c lockrun -n "__fish_lockrun_using_subcommand prune" -l older -d 'Keep what has been used within DUR' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand prune" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand prune" -l store -d 'A server instead: etcd://HOST,HOST [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand prune" -l dry-run -d 'Only print what would be removed'
complete -c lockrun -n "__fish_lockrun_using_subcommand prune" -s h -l help -d 'Print help'
complete -c lockrun -n "__fish_lockrun_using_subcommand path" -s l -l name -a '(__fish_lockrun_names)' -d 'The lock\'s name' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand path" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand path" -s h -l help -d 'Print help'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s w -l timeout -l wait -d 'Longest wait, with decimals; 0: none' -r -f -a "0\t''
10s\t''
1m\t''
10m\t''
1h\t''
forever\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s E -l conflict-exit-code -d 'Exit code instead of 1 without the lock' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -l fd -d 'Lock the caller\'s descriptor N, and run COMMAND' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s s -l shared -d 'Take a shared (read) lock'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s x -s e -l exclusive -d 'Take an exclusive lock [default]'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s u -l unlock -d 'Unlock the descriptor'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s n -l nonblock -l nonblocking -l nb -d 'Do not wait: fail at once'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s o -l close -d 'Close the descriptor for COMMAND'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s F -l no-fork -d 'Become COMMAND'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -l verbose -d 'Print how long it took, and who holds the lock'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s V -l version -d 'Print version'
complete -c lockrun -n "__fish_lockrun_using_subcommand flock" -s h -l help -d 'Print help'
complete -c lockrun -n "__fish_lockrun_using_subcommand completions" -s h -l help -d 'Print help'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s l -l name -a '(__fish_lockrun_names)' -d 'The lock\'s name [default: the command line]' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l file -d 'Lock exactly this file or directory' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s d -l dir -d 'The locks directory [env: LOCKRUN_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l store -d 'Lock on an etcd server [env: LOCKRUN_STORE]' -r -f -a "file:\t''
etcd://\t''
etcds://\t''
postgres://\t''
redis://\t''
rediss://\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s t -l timeout -d 'Longest wait; 0: none [env: LOCKRUN_TIMEOUT]' -r -f -a "0\t''
10s\t''
1m\t''
10m\t''
1h\t''
forever\t''"
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l slots -d 'Take one of N slots: up to N holders at once' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l slot -d 'With --slots N: exactly slot K modulo N' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l max-waiters -d 'Fail at once if N are waiting; 0: never wait' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s E -l conflict-exit-code -d 'Exit code instead of 75, 121 and 124' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s c -d 'Run \'/bin/sh -c STRING\' as COMMAND' -r -f -a "(__fish_complete_command)"
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l expires -d 'After DUR, end COMMAND and everything it started' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l kill-after -d 'Time between TERM and KILL [default: 10]' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l hold -d 'Hold until the command or its whole tree ends' -r -f -a "command\t'Until COMMAND ends'
tree\t'Until everything that it started has ended'"
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l at-least -d 'On a server: keep the lock for at least DUR' -r -f
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l report -d 'Append one line of JSON about the run to FILE' -r -F
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s n -l nonblock -d 'Do not wait: --timeout 0'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s s -l shared -d 'Take a shared (read) lock'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l replace -d 'Stop the current holder and take the lock next'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l reentrant -d 'Run at once under a command that holds the lock'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s q -l quiet -d 'Print nothing about waiting or giving up'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s v -l verbose -d 'Print the path, waiting and holding times'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -l exec -d 'Become COMMAND: no lockrun process stays'
complete -c lockrun -n "__fish_lockrun_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'

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
complete -c lockrun -n __fish_lockrun_in_command -f -a '(__fish_lockrun_command)'
for subcommand in list status wait break
    complete -c lockrun -n "__fish_lockrun_using_subcommand $subcommand" -f -a '(__fish_lockrun_names)'
end
complete -c lockrun -n '__fish_lockrun_using_subcommand completions' -f -a 'bash zsh fish'
complete -c lockrun -n '__fish_lockrun_using_subcommand help' -f -a 'acquire release renew check list status wait break prune path flock completions run help version'
