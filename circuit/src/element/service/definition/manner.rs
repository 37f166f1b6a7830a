//! The surroundings of the processes of a definition: their user, limits, mask and priority.

use std::ffi::CString;

use circuit_proto::element::service::{Bound, Definition, Limit};
use circuit_proto::{Code, Error};
use rustix::process::{Resource, Rlimit};

use super::{invalid, octal};
use crate::element::process::{Manner, Owner};

/// The limits, by their names in definitions.
const LIMITS: &[(&str, Resource)] = &[
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

fn limit(name: &str, limit: &Limit) -> Result<(Resource, Rlimit), Error> {
    let known = LIMITS.iter().find(|(known, _)| *known == name);
    let Some((_, resource)) = known else {
        let all: Vec<_> = LIMITS.iter().map(|(name, _)| *name).collect();
        return Err(invalid(format!(
            "Limits: no limit is named {name:?}: there are {}",
            all.join(", ")
        )));
    };
    let side = |bound: &Bound| match bound {
        Bound::Number(number) => Ok(Some(*number)),
        Bound::Word(word) if word == "unlimited" => Ok(None),
        Bound::Word(word) => Err(invalid(format!(
            "Limits: {name} is {word:?}: a number or \"unlimited\""
        ))),
    };
    let (current, maximum) = match limit {
        Limit::Both(both) => (side(both)?, side(both)?),
        Limit::Each([soft, hard]) => (side(soft)?, side(hard)?),
    };
    let greater = match (current, maximum) {
        (Some(soft), Some(hard)) => soft > hard,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    match greater {
        true => Err(invalid(format!(
            "Limits: {name}: the soft limit is above the hard one"
        ))),
        false => Ok((*resource, Rlimit { current, maximum })),
    }
}

/// How the instances and commands of a definition are executed. Looks the user up, which may block, unless that
/// was done before: `known` is who it was, if the definition names anybody.
pub(super) fn manner(
    d: &Definition,
    own_number: bool,
    known: Option<Option<Owner>>,
) -> Result<Manner, Error> {
    let limits = d.limits.iter().flatten();
    if d.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
        return Err(invalid("Nice is from -20 to 19"));
    }
    Ok(Manner {
        owner: match known {
            Some(known) => known,
            None => d.user.as_deref().map(owner).transpose()?,
        },
        umask: d
            .umask
            .as_deref()
            .map(|mask| octal("Umask", mask))
            .transpose()?,
        nice: d.nice,
        limits: limits
            .map(|(name, value)| limit(name, value))
            .collect::<Result<_, _>>()?,
        own_number,
        variables: Vec::new(),
    })
}

/// The user `www` or `www:adm`, with its supplementary groups.
fn owner(text: &str) -> Result<Owner, Error> {
    use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
    let failed = |what: &str, why: nix::Error| {
        Error::new(
            Code::Internal,
            format!("User: cannot look up {what}: {}", why.desc()),
        )
    };
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let user = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    let user = user
        .map_err(|why| failed(name, why))?
        .ok_or_else(|| invalid(format!("User: there is no user {name:?}")))?;
    let gid = match group {
        None => user.gid,
        Some(group) => {
            let found = match group.parse() {
                Ok(number) => Group::from_gid(Gid::from_raw(number)),
                Err(_) => Group::from_name(group),
            };
            let found = found.map_err(|why| failed(group, why))?;
            found
                .ok_or_else(|| invalid(format!("User: there is no group {group:?}")))?
                .gid
        }
    };
    let name = CString::new(user.name).map_err(|_| invalid("User holds a zero byte"))?;
    let groups = getgrouplist(&name, gid).map_err(|why| failed(text, why))?;
    let own = rustix::process::geteuid();
    if !own.is_root() && own.as_raw() != user.uid.as_raw() {
        return Err(invalid(
            "User: only a server of root's can run programs as another user",
        ));
    }
    Ok(Owner {
        uid: user.uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    })
}
