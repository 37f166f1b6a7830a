use super::*;

const MOUNTS: &str = "\
    31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
    35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n\
    42 31 0:38 /a/b /mnt/of\\040b rw - cgroup2 none rw\n";

#[test]
fn mounts_of_version_2_are_found() {
    let mount = |root: &str, dir: &str| Mount {
        root: root.to_owned(),
        dir: dir.into(),
    };
    let expected = [
        mount("/", "/sys/fs/cgroup/unified"),
        mount("/a/b", "/mnt/of b"),
    ];
    assert_eq!(mounts_in(MOUNTS), expected);
    for end in 0..MOUNTS.len() {
        mounts_in(&MOUNTS[..end]);
    }
}

#[test]
fn a_path_is_seen_below_the_root_of_its_mount_only() {
    let dir = |root: &str, path: &str| {
        let root = root.to_owned();
        let mount = Mount {
            root,
            dir: "/m".into(),
        };
        let cgroup = mount.cgroup(path)?;
        assert_eq!(cgroup.path, path);
        Some(cgroup.dir.to_str()?.trim_end_matches('/').to_owned())
    };
    for (root, path, expected) in [
        ("/", "/", Some("/m")),
        ("/", "/a/b", Some("/m/a/b")),
        ("/a", "/a", Some("/m")),
        ("/a", "/a/b", Some("/m/b")),
        ("/a", "/ab", None),
        ("/a", "/", None),
    ] {
        assert_eq!(dir(root, path).as_deref(), expected, "{path} below {root}");
    }
}

#[test]
fn the_path_of_version_2_is_found_among_the_others() {
    let text = "9:name=systemd:/x\n4:memory:/y\n0::/system.slice/a.service\n";
    assert_eq!(path_in(text).as_deref(), Some("/system.slice/a.service"));
    assert_eq!(path_in("4:memory:/y\n"), None);
    assert_eq!(path_in("0::/../other\n"), None);
}

#[test]
fn a_recorded_path_leads_nowhere_else() {
    let mount = mounts_in(MOUNTS).into_iter().next();
    let cgroups = Cgroups {
        mount,
        delegated: None,
    };
    assert!(cgroups.recorded("/unit/1.2.3").is_some());
    assert_eq!(cgroups.recorded("/unit/../../etc"), None);
    assert_eq!(cgroups.named("1.2.3"), None);
}

#[test]
fn a_name_is_the_last_part_of_the_path() {
    let root = Cgroup {
        path: "/".to_owned(),
        dir: "/m".into(),
    };
    let child = root.child("a").child("b");
    assert_eq!((child.path(), child.name()), ("/a/b", "b"));
    assert_eq!(child.dir, Path::new("/m/a/b"));
}

#[test]
fn memory_is_told_without_what_can_be_dropped_and_only_where_it_is_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let cgroup = Cgroup {
        path: "/a".to_owned(),
        dir: dir.path().to_owned(),
    };
    assert_eq!(cgroup.memory(), None);
    fs::write(cgroup.file("memory.current"), "1000\n").unwrap();
    fs::write(
        cgroup.file("memory.stat"),
        "anon 1\nfile 9\ninactive_file 42\n",
    )
    .unwrap();
    assert_eq!(cgroup.memory(), Some(958));
}

#[test]
fn it_is_populated_as_its_events_say() {
    let dir = tempfile::tempdir().unwrap();
    let cgroup = Cgroup {
        path: "/a".to_owned(),
        dir: dir.path().to_owned(),
    };
    assert!(!cgroup.is_populated().unwrap());
    for (events, expected) in [("populated 1\nfrozen 0\n", true), ("populated 0\n", false)] {
        fs::write(cgroup.file("cgroup.events"), events).unwrap();
        assert_eq!(cgroup.is_populated().unwrap(), expected, "{events}");
    }
    // Whoever cannot look takes nobody for gone.
    fs::remove_file(cgroup.file("cgroup.events")).unwrap();
    fs::create_dir(cgroup.file("cgroup.events")).unwrap();
    assert!(cgroup.is_populated().is_err());
}
