//! A locks directory that others may write to: nothing that they put there is opened,
//! locked, followed or removed, and `list` and `prune` still work.

use crate::support::{Invocation, Sandbox, altered, in_pid_namespace, may_act_as_root};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Sees everybody who opens a file, but for O_PATH.
struct Watch(OwnedFd);

impl Watch {
    fn on(path: &Path) -> Self {
        let queue = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        add_watch(&queue, path, WatchFlags::OPEN).unwrap();
        Self(queue)
    }

    fn was_opened(&self) -> bool {
        let mut room = [MaybeUninit::uninit(); 1024];
        Reader::new(&self.0, &mut room).next().is_ok()
    }
}

/// What names the gate of a file: its identity.
fn gate_of(file: &Path) -> String {
    let stat = fs::metadata(file).unwrap();
    format!("%-{:x}-{:x}.gate", stat.dev(), stat.ino())
}

/// A sandbox where somebody has forged the gate of `victim`, which is made by
/// `make` and then named by the gate's text.
fn with_forged_gate(make: impl Fn(&Sandbox) -> PathBuf) -> (Sandbox, PathBuf, String) {
    let sandbox = Sandbox::new();
    let model = sandbox.write("work/model", "");
    sandbox.lockrun(&["--file", model.to_str().unwrap(), "--", "true"]).run().assert_code(0);
    let model_gate = sandbox.locks().join(gate_of(&model));
    let text = fs::read_to_string(&model_gate).unwrap();
    fs::remove_file(model_gate).unwrap();
    let victim = make(&sandbox);
    let (from, to) = (model.to_str().unwrap(), victim.to_str().unwrap());
    let forged = text.replace(&format!("\"name\":\"{from}\""), &format!("\"name\":\"{to}\""));
    assert!(forged.contains(to), "{forged}");
    let gate = gate_of(&victim);
    sandbox.write(&format!("locks/{gate}"), &forged);
    (sandbox, victim, gate)
}

/// `list` and `prune`, here and in a pid namespace of their own, where the
/// kernel hides the locks of others.
fn looks(sandbox: &Sandbox) -> Vec<Invocation> {
    let program = sandbox.path("bin/lockrun").display().to_string();
    let mut looks = Vec::new();
    for words in [&["list"] as &[&str], &["prune", "--dry-run"], &["prune"]] {
        looks.push(sandbox.lockrun(words));
        looks.extend(in_pid_namespace(sandbox, &[&[program.as_str()], words].concat()));
    }
    looks
}

#[test]
fn no_fifo_or_device_that_a_text_names_is_opened() {
    let fifo = |sandbox: &Sandbox| {
        let path = sandbox.path("work/fifo");
        sandbox.command("mkfifo", &[&path]).run().assert_code(0);
        path
    };
    let device = |sandbox: &Sandbox| {
        let path = sandbox.path("work/device");
        sandbox.command("mknod", &[path.to_str().unwrap(), "c", "1", "3"]).run().assert_code(0);
        path
    };
    let mut kinds: Vec<&dyn Fn(&Sandbox) -> PathBuf> = vec![&fifo];
    if may_act_as_root("mknod") {
        kinds.push(&device);
    }
    for make in kinds {
        let (sandbox, victim, _) = with_forged_gate(make);
        let watch = Watch::on(&victim);
        for look in looks(&sandbox) {
            look.run().assert_code(0);
            assert!(!watch.was_opened(), "{}", victim.display());
        }
    }
}

/// A path that leads elsewhere than the gate's name says.
#[test]
fn only_the_gate_of_a_path_lock_is_opened() {
    let (sandbox, first, gate) = with_forged_gate(|sandbox| sandbox.write("work/first", ""));
    let other = sandbox.write("work/other", "secret\n");
    fs::rename(&other, &first).unwrap();
    assert_ne!(gate_of(&first), gate);
    let watch = Watch::on(&first);
    for look in looks(&sandbox) {
        look.run().assert_code(0);
        assert!(!watch.was_opened());
    }
}

/// A token says where its record is.
#[test]
fn no_fifo_that_a_forged_token_names_is_opened() {
    let sandbox = Sandbox::new();
    let token = sandbox.acquire(&["-l", "calc", "--expires", "50"]);
    sandbox.release(&token).assert_code(0);
    let fifo = sandbox.locks().join("fifo");
    sandbox.command("mkfifo", &[&fifo]).run().assert_code(0);
    let watch = Watch::on(&fifo);
    let forged = altered(&token, |content| content["g"][0]["r"] = "fifo".into());
    sandbox.release(&forged).assert_code(123);
    assert!(!watch.was_opened());
}

/// Where the kernel shows all locks it is asked, and nobody's `flock -n` fails
/// because somebody looks.
#[test]
fn no_file_that_a_text_names_is_opened_where_the_kernel_can_be_asked() {
    if fs::read_link("/proc/self/ns/pid").unwrap().as_os_str() != "pid:[4026531836]" {
        eprintln!("not tested: this pid namespace is not the first");
        return;
    }
    let (sandbox, victim, _) = with_forged_gate(|sandbox| sandbox.write("work/victim", ""));
    let watch = Watch::on(&victim);
    // So many locks that the kernel does not show them in one piece.
    let many: Vec<_> = (0..40).map(|number| sandbox.hold(&["-l", &format!("n{number}")])).collect();
    for words in [&["list"] as &[&str], &["prune", "--dry-run"], &["prune"]] {
        sandbox.lockrun(words).run().assert_code(0);
        assert!(!watch.was_opened(), "{words:?}");
    }
    drop(many);
}

/// Whether a file of the directory is what it was.
fn state(path: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let it = fs::symlink_metadata(path).unwrap();
    (it.ino(), it.mode(), it.size(), it.mtime(), it.mtime_nsec(), it.nlink())
}

#[test]
fn other_files_are_skipped_unopened() {
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o700);
    sandbox.lockrun(&["-l", "model", "--", "true"]).run().assert_code(0);
    let model = fs::read(sandbox.lock_file("model")).unwrap();
    let precious = sandbox.write("work/precious", "");
    fs::write(&precious, &model).unwrap();
    let locks = sandbox.locks();
    let mut names = vec!["link.lock", "dangling.lock", "dir.lock", "fifo.lock", "hard.lock", "empty.lock", "huge.lock"];
    symlink(&precious, locks.join("link.lock")).unwrap();
    symlink("/nowhere", locks.join("dangling.lock")).unwrap();
    fs::create_dir(locks.join("dir.lock")).unwrap();
    fs::hard_link(&precious, locks.join("hard.lock")).unwrap();
    sandbox.write("locks/empty.lock", "");
    fs::File::create(locks.join("huge.lock")).unwrap().set_len(1 << 40).unwrap();
    for gate in ["fifo.lock", "%-1-2.gate"] {
        sandbox.command("mkfifo", &[locks.join(gate)]).run().assert_code(0);
    }
    names.push("%-1-2.gate");
    let before: Vec<_> = names.iter().map(|name| state(&locks.join(name))).collect();
    let watches = [precious, locks.join("fifo.lock"), locks.join("%-1-2.gate"), locks.join("dir.lock")];
    let watches = watches.map(|path| Watch::on(&path));
    for words in [&["list"] as &[&str], &["prune", "--dry-run"], &["prune"]] {
        sandbox.lockrun(words).run().assert_code(0).assert_silent();
        assert!(watches.iter().all(|watch| !watch.was_opened()), "{words:?}");
    }
    let after: Vec<_> = names.iter().map(|name| state(&locks.join(name))).collect();
    assert_eq!(before, after);
    assert!(!sandbox.lock_file("model").exists());
}

/// Another user's file that we may not open.
#[test]
fn files_without_permission_are_skipped() {
    if !may_act_as_root("another user") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.make_dir("locks", 0o1777);
    let by_other = |args: &[&str]| sandbox.lockrun(args).current_dir(&std::env::temp_dir()).by_user(12345, 12345).run();
    by_other(&["-l", "calc", "--", "true"]).assert_code(0);
    sandbox.lockrun(&["-l", "secret", "--", "true"]).run().assert_code(0);
    sandbox.command("chmod", &["600".as_ref(), sandbox.lock_file("secret").as_os_str()]).run().assert_code(0);
    by_other(&["prune"]).assert_code(0).assert_silent().assert_stdout("calc\n");
}
