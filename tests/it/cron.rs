//! The crontab lines of docs/recipes.md under cron itself: a job runs, and what is skipped
//! sends no mail.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Sandbox, may_act_as_root, with_mounts};

/// The commands of the crontab lines for this machine, as the page has them.
fn recipes() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let page = fs::read_to_string(page).unwrap();
    let tables = page.split("```crontab\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let here = tables.filter(|table| !table.contains("LOCKRUN_STORE"));
    let lines = here.flat_map(str::lines).filter(|line| line.contains("lockrun"));
    lines.map(|line| line.splitn(6, ' ').last().unwrap().to_owned()).collect()
}

fn write_program(sandbox: &Sandbox, file: &str, text: &str) {
    let path = sandbox.write(file, text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn cron_runs_the_recipes_and_mails_only_what_failed() {
    if !may_act_as_root("cron") {
        return;
    }
    let recipes = recipes();
    assert_eq!(recipes.len(), 2, "{recipes:?}");
    let sandbox = Sandbox::new();
    let root = sandbox.path("").display().to_string();
    let root = root.trim_end_matches('/');
    sandbox.make_dir("sbin", 0o755);
    sandbox.make_dir("mail", 0o755);
    write_program(&sandbox, "sbin/sendmail", &format!("#!/bin/sh\ncat >{root}/mail/$$\n"));
    for job in ["sync.sh", "work.sh"] {
        write_program(&sandbox, &format!("bin/{job}"), &format!("#!/bin/sh\necho $LOCKRUN_NAME >{root}/ran.{job}\n"));
    }
    let held = recipes[0].replace("--name sync", "--name held");
    assert_ne!(held, recipes[0]);
    let jobs = [
        &[format!("PATH={root}/bin:/usr/bin:/bin")] as &[String],
        &recipes.iter().map(|line| format!("* * * * * {line}")).collect::<Vec<_>>(),
        &[format!("* * * * * {held}"), "* * * * * lockrun -n --name held -- true".to_owned()],
        &["* * * * * lockrun -n -E 0 -q --file /missing/file -- true".to_owned()],
    ];
    sandbox.write("crontab", &(jobs.concat().join("\n") + "\n"));
    // All that cron reads and writes is replaced by something of the test.
    let script = format!(
        "mount -t tmpfs none /run
        mount -t tmpfs none /etc/cron.d
        mount --bind /dev/null /etc/crontab
        mount -t tmpfs none /var/spool/cron
        mkdir -m 1730 /var/spool/cron/crontabs
        mount -t overlay none -o lowerdir={root}/sbin:/usr/sbin /usr/sbin
        (umask 077; cat {root}/crontab >/var/spool/cron/crontabs/root)
        env -u LOCKRUN_DIR {root}/bin/lockrun -n --name held -- sleep 1000 & holder=$!
        cron -f -L 0 &
        until [ -e {root}/ran.sync.sh ] && [ -e {root}/ran.work.sh ] && [ $(ls {root}/mail | wc -l) -ge 2 ]; do
            sleep 0.1
        done
        while ps --ppid $! >/dev/null; do sleep 0.1; done
        kill $holder $!
        cat {root}/ran.sync.sh"
    );
    let Some(invocation) = with_mounts(&sandbox, &script) else { return };
    invocation.run().assert_code(0).assert_stdout("sync\n");
    let mails = fs::read_dir(sandbox.path("mail")).unwrap().map(|mail| mail.unwrap().path());
    let mut mails: Vec<_> = mails.map(|mail| fs::read_to_string(mail).unwrap()).collect();
    mails.sort_by_key(|mail| mail.contains("/missing"));
    let [busy, failed] = &mails[..] else { panic!("{mails:?}") };
    assert!(busy.contains("lockrun: held: busy"), "{busy}");
    assert!(failed.contains("/missing/file"), "{failed}");
}
