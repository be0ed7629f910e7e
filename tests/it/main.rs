//! The product's promise as tests: real processes, real locks, one behaviour
//! a file. Each test owns a [`support::Sandbox`], waits for conditions and never sleeps
//! for luck.
//!
//! Run them with `cargo test`. As root they also cover what needs a second user
//! or a mount; without root those tests say so and pass (with `CI` set they
//! fail instead).

/// Sandboxes, processes under test, and ways to watch them.
mod support;

/// The harness itself: what the other tests rely on is true.
mod harness;

// The command line.

/// Bad input and its messages.
mod bad_input;
/// `--dir`, `LOCKRUN_DIR`.
mod directory_option;
/// `--exec`.
mod exec;
/// `--file PATH` and flock(1) on the same path.
mod file_option;
/// flock(1)'s options that mean nothing here.
mod flock_options;
/// `--version`, `-h`, `--help`.
mod help;
/// `--name`, `-c`, and the command line as the name.
mod names;
/// Any bytes make a name, and each name one file.
mod odd_names;
/// `lockrun path`.
mod path;
/// `--shared`.
mod shared;
/// What was probably meant by a line that is refused.
mod suggestions;
/// `--timeout` in every form, `-n`, `LOCKRUN_TIMEOUT`.
mod timeout;

// Results.

/// Two loops and a counter: the main job, with and without the lock.
mod counter;
/// What COMMAND gets: input, arguments, environment.
mod environment;
/// Words of errors.
mod error_words;
/// Every exit code and signal that one lock can give.
mod exit_codes;
/// Fencing tokens.
mod fence;
/// What people read without a terminal.
mod messages;

// Files.

/// The default directory of root, users and unknown users.
mod default_directory;
/// Symlinks, FIFOs, devices and foreign text where a lock file belongs.
mod foreign_files;
/// Disks that are full or read-only.
mod full_disk;
/// A locks directory that others may write to.
mod hostile_directory;
/// Modes that follow the directory under any umask.
mod modes;
/// The text of a lock file.
mod record;
/// Lock files removed or replaced while held or waited for.
mod replaced_file;
/// Two users in a directory like /tmp.
mod sticky_directory;
/// Relative paths where the absolute ones lead nowhere.
mod unreachable_paths;

// Lifetime and signals.

/// COMMAND killed: lockrun ends the same way.
mod command_killed;
/// Ctrl-Z while lockrun waits.
mod ctrl_z_waiting;
/// `--expires`, `--kill-after`.
mod expires;
/// Signals and descriptors that COMMAND inherits.
mod inheritance;
/// How long a lock is held, whichever process is killed.
mod lifetime;
/// Kernels and sandboxes without pidfd_open(2).
mod old_kernels;
/// A COMMAND whose lockrun was killed is known as the holder.
mod orphaned_command;
/// Signals that lockrun passes on to COMMAND.
mod signals;
/// Ctrl-C, Ctrl-\\, Ctrl-Z, fg, bg, hang-ups.
mod terminal;
/// The line that is shown while lockrun waits at a terminal.
mod waiting_line;

// The queue.

/// A waiter makes no system call.
mod asleep;
/// A lockrun that was stopped while it takes a lock.
mod busy_door;
/// Each system call of each command fails.
mod errno_sweep;
/// kill -9 at every system call.
mod kill_points;
/// `--timeout 0` among others.
mod nonblock;
/// The waiting child and its parent in one memory.
mod one_memory;
/// First in, first out.
mod queue;
/// Thousands of grants under an independent witness.
mod witness;

// Looking at locks.

/// `break`.
mod break_lock;
/// What is printed for programs follows docs/schema.
mod json_schemas;
/// How the last run of a free lock ended.
mod last_run;
/// `list --json`: every kind of holder.
mod list;
/// `list` for people: columns, widths, colours.
mod list_table;
/// `prune`, also while locks are taken.
mod prune;
/// `--report`.
mod report;
/// `status`.
mod status;
/// Looking at a lock disturbs no request for it.
mod undisturbed;
/// `wait`.
mod wait;
/// Processes that `break`, `--replace` and `--expires` signal or spare.
mod who_is_signalled;

// Pools, sets, and what goes with them.

/// Thousands of grants of every kind, and locks that are broken on purpose.
mod campaign;
/// `acquire --timeout 0`.
mod impatient_acquire;
/// `--max-waiters`.
mod max_waiters;
/// Readers, writers, slots and sets in one queue.
mod mixed_queue;
/// A lock under itself.
mod nesting;
/// A lock under itself where the environment does not show it.
mod nesting_ancestors;
/// `--reentrant`.
mod reentrant;
/// `renew` and `check` inside a run.
mod renew_run;
/// `--replace`.
mod replace;
/// The same, on every engine.
#[cfg(feature = "net")]
mod run_every_engine;
/// Several `--name` and `--file`.
mod sets;
/// `--slot`.
mod slot;
/// `--slots`.
mod slots;
/// Everything at once, with processes killed and stopped at random.
mod storm;

// Descriptors of scripts.

/// `acquire --fd`: what is locked, and the messages.
mod descriptor;
/// Scripts to copy that lock a descriptor of their own.
mod descriptor_recipes;
/// Descriptors that several processes have.
mod descriptor_sharing;
/// `acquire --fd` while it waits.
mod descriptor_wait;
/// `lockrun flock`, beside flock(1).
mod flock_command;

// Documentation and packages.

/// Imports in `src/` only go down.
mod architecture;
/// The completions in bash, zsh and fish.
mod completion;
/// The crontab lines under cron itself.
mod cron;
/// The manual and the completions are those of the command line.
mod documentation;
/// The examples do what their texts say.
mod examples;
/// action.yml: lockrun in a workflow of GitHub.
mod github_action;
/// `make install`, `make uninstall`.
mod installation;
/// `make deb`, `make rpm`, `make wheel`, `make dist`.
mod packages;
/// README's pictures show what lockrun prints.
mod pictures;

// Servers.

/// TLS, users and passwords, and several addresses.
#[cfg(feature = "net")]
mod etcd_access;
/// The requests to etcd, each against a real server.
#[cfg(feature = "net")]
mod etcd_calls;
/// Every kind of lock on three servers, under every fault.
#[cfg(feature = "net")]
mod etcd_campaign;
/// Three servers of etcd, cut off, frozen and killed.
#[cfg(feature = "net")]
mod etcd_cluster;
/// A server that restarts, is full, forgets its history or is asked by hundreds.
#[cfg(feature = "net")]
mod etcd_faults;
/// The store of rows on a real etcd, with `etcdctl lock` beside it.
#[cfg(feature = "net")]
mod etcd_rows;
/// What holds for locks on files and on servers alike.
#[cfg(feature = "net")]
mod every_engine;
/// What only locks on a server have: leases, losses, keepers, `--at-least`.
#[cfg(feature = "net")]
mod on_a_server;
/// What is PostgreSQL's own: the tables, rights, the server's clock, poolers.
#[cfg(feature = "net")]
mod on_postgres;
/// What is Redis's own: what it forgets, its memory, its kinds of servers.
#[cfg(feature = "net")]
mod on_redis;
/// The judge of the campaigns on servers.
#[cfg(feature = "net")]
mod oracle;
/// The callers of the campaigns on servers, killed and stopped.
#[cfg(feature = "net")]
mod server_callers;
/// Every kind of lock on one server, under every fault, its clock included.
#[cfg(feature = "net")]
mod server_campaign;
/// The waiting line, Ctrl-C, Ctrl-Z and fg on a server.
#[cfg(feature = "net")]
mod server_terminal;
/// What `--expires` and `--hold tree` wait for on a server.
#[cfg(feature = "net")]
mod server_tree;
/// `--store`, `LOCKRUN_STORE`.
#[cfg(feature = "net")]
mod store_option;

// Tokens.

/// `check --json`, `renew`.
mod token_check_renew;
/// CI jobs, and tokens taken inside another lockrun.
mod token_ci;
/// Bad clients of a token's keeper, and many at once.
mod token_clients;
/// Many tokens at once, which leave nothing behind.
mod token_contest;
/// From acquire to release, with every lock option.
mod token_cycle;
/// Tokens of lock files and of a server, by one list.
#[cfg(feature = "net")]
mod token_every_engine;
/// Tokens, commands and flock(1) exclude each other.
mod token_exclusion;
/// Tokens that cannot be delivered; processes killed or slow at any system call.
mod token_hand_over;
/// What a token's keeper keeps of its caller.
mod token_holder;
/// Locks that are lost while a token stands for them.
mod token_lost;
/// Messages about a token's lock.
mod token_messages;
/// What only tokens of a server have.
#[cfg(feature = "net")]
mod token_on_a_server;
/// `--owner PID`.
mod token_owner;
/// Scripts to copy.
mod token_recipes;
/// Wrong, foreign, old and forged tokens; other users; impostors.
mod token_secrets;
/// Ways in which shells start acquire.
mod token_shell;
/// Where tokens come from; several at once.
mod token_words;
