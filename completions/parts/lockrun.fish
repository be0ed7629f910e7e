
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
