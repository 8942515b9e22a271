//! `chatctl group …`: create and change groups. A group is named by its number or, if
//! one is in only one of that name, by its name.

use chat_client::{Client, Start, frame, frame::Role, ids::GroupId};
use clap::{Subcommand, ValueEnum};

use crate::{
    connect,
    failure::Failure,
    names,
    options::{Format, Global},
    output,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Create a group; you are its owner.
    Create {
        /// Its name.
        name: String,
        /// People by name.
        members: Vec<String>,
    },
    /// Add people.
    Add {
        /// Its name or number.
        group: String,
        /// People by name.
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Remove members.
    Remove {
        /// Its name or number.
        group: String,
        /// Members by name.
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Leave a group.
    Leave {
        /// Its name or number.
        group: String,
    },
    /// Give a member another role.
    Role {
        /// Its name or number.
        group: String,
        /// The member's name.
        member: String,
        /// The role.
        role: RoleName,
    },
    /// Rename a group.
    Rename {
        /// Its name or number.
        group: String,
        /// The new name.
        name: String,
    },
    /// Show a group.
    Show {
        /// Its name or number.
        group: String,
    },
    /// List the members.
    Members {
        /// Its name or number.
        group: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleName {
    /// May do everything.
    Owner,
    /// May add and remove members.
    Admin,
    /// May write.
    Member,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Owner => Self::Owner,
            RoleName::Admin => Self::Admin,
            RoleName::Member => Self::Member,
        }
    }
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let session = connect::one_shot(global, Start::Fresh).await?;
    let client = &session.client;
    match options {
        Options::Create { name, members } => {
            state(global, &client.group_create(name, members).await?)?;
        }
        Options::Add { group, members } => {
            let group = names::group(client, &group).await?;
            state(global, &client.group_add(group, members).await?)?;
        }
        Options::Remove { group, members } => {
            let group = names::group(client, &group).await?;
            let members = names::members_named(client, group, &members).await?;
            state(global, &client.group_remove(group, members).await?)?;
        }
        Options::Leave { group } => {
            let group = names::group(client, &group).await?;
            state(global, &client.group_leave(group).await?)?;
        }
        Options::Role {
            group,
            member,
            role,
        } => {
            let group = names::group(client, &group).await?;
            let members = names::members_named(client, group, &[member]).await?;
            for member in members {
                state(
                    global,
                    &client.group_role(group, member, role.into()).await?,
                )?;
            }
        }
        Options::Rename { group, name } => {
            let group = names::group(client, &group).await?;
            state(global, &client.group_rename(group, name).await?)?;
        }
        Options::Show { group } => {
            let group = names::group(client, &group).await?;
            state(global, &client.group(group).await?)?;
        }
        Options::Members { group } => {
            let group = names::group(client, &group).await?;
            members(global, client, group).await?;
        }
    }
    client.close().await;
    Ok(())
}

fn state(global: &Global, group: &frame::GroupState) -> Result<(), Failure> {
    match global.output {
        Format::Json => output::json(&output::value(group)?),
        Format::Table => output::table(
            &["group", "members", "your role", "id"],
            vec![vec![
                output::clean(&group.name),
                group.members.to_string(),
                output::role(group.my_role()).to_owned(),
                group.group.to_string(),
            ]],
        ),
    }
    Ok(())
}

async fn members(global: &Global, client: &Client, group: GroupId) -> Result<(), Failure> {
    let members = names::members(client, group).await?;
    match global.output {
        Format::Json => {
            for member in &members {
                output::json(&output::value(member)?);
            }
        }
        Format::Table => {
            let rows = members
                .iter()
                .map(|member| {
                    vec![
                        output::clean(&member.name),
                        output::role(member.role()).to_owned(),
                        member.user.to_string(),
                    ]
                })
                .collect();
            output::table(&["name", "role", "id"], rows);
        }
    }
    Ok(())
}
