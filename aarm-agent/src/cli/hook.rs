//! `aarm hook`: tells the daemon what an agent's own hook says.

use std::io::Read;

use serde_json::Value;

use super::Global;
use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::Output;
use crate::api::feed::{NAME_MAX, Noted, Said, TEXT_MAX, What};

/// Most bytes that are read.
const INPUT_MAX: u64 = 4 << 20;

/// Tell the daemon what an agent's hook says
///
/// For the hooks of an agent that runs under `aarm run`: reads what the agent gives its hook, as JSON, from standard input, and tells the
/// daemon what a person has asked for (UserPromptSubmit) or which tool the agent is about to call (PreToolUse). It stands in the
/// receipts, deferred actions can wait for it (`resolve: [intent, declared]`), and who is asked is told of it. The session must be allowed to
/// connect to the daemon's socket. Other hooks are passed over.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  # in the agent's settings, for the hooks UserPromptSubmit and PreToolUse: the command `aarm hook`
  echo '{\"hook_event_name\":\"PreToolUse\",\"tool_name\":\"Bash\",\"tool_input\":{\"command\":\"git push\"}}' | aarm hook
  # in the policy:
  #   - { id: feed, match: { operation: unix_connect, path: /run/aarm/aarm.sock }, decision: ALLOW }")]
pub struct HookArgs {}

/// What a hook says, cut to what can be told.
fn said(input: &[u8]) -> Result<Option<Said>, String> {
    let hook: Value =
        serde_json::from_slice(input).map_err(|e| format!("standard input is not JSON: {e}"))?;
    let text = |name: &str| hook[name].as_str().unwrap_or_default().to_owned();
    let (what, mut name, mut said) = match hook["hook_event_name"].as_str() {
        Some("UserPromptSubmit") => (What::Intent, String::new(), text("prompt")),
        Some("PreToolUse") => {
            let input = &hook["tool_input"];
            // What a shell is told says all of it; of other tools it is their whole input.
            let command = input["command"].as_str().map(str::to_owned);
            (What::Tool, text("tool_name"), command.unwrap_or_else(|| input.to_string()))
        }
        Some(_) => return Ok(None),
        None => return Err("it has no `hook_event_name`".into()),
    };
    if what == What::Tool && name.is_empty() {
        return Err("it has no `tool_name`".into());
    }
    name.truncate(name.floor_char_boundary(NAME_MAX));
    said.truncate(said.floor_char_boundary(TEXT_MAX));
    Ok(Some(Said { what, name, text: said }))
}

/// Runs it.
pub fn run(_: &HookArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let mut input = Vec::new();
    std::io::stdin().lock().take(INPUT_MAX).read_to_end(&mut input)?;
    let Some(said) = said(&input).map_err(CliError::Usage)? else { return Ok(Exit::OK) };
    // Nothing on standard output: agents take that for the hook's own answer.
    let _: Noted = block_on(async { Client::connect(&global.socket).await?.post("/v1/feed", &said).await })?;
    out.flush()?;
    Ok(Exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_of_agents_are_read() {
        let read = |text: &str| said(text.as_bytes());
        let tool = |name: &str, text: &str| Said { what: What::Tool, name: name.into(), text: text.into() };
        let bash = r#"{"hook_event_name":"PreToolUse","session_id":"x","tool_name":"Bash","tool_input":{"command":"git push","description":"d"}}"#;
        assert_eq!(read(bash), Ok(Some(tool("Bash", "git push"))));
        let other = r#"{"hook_event_name":"PreToolUse","tool_name":"Read","tool_input":{"file_path":"/x"}}"#;
        assert_eq!(read(other), Ok(Some(tool("Read", r#"{"file_path":"/x"}"#))));
        let prompt = r#"{"hook_event_name":"UserPromptSubmit","prompt":"fix it"}"#;
        let intent = Said { what: What::Intent, name: String::new(), text: "fix it".into() };
        assert_eq!(read(prompt), Ok(Some(intent)));
        assert_eq!(read(r#"{"hook_event_name":"Stop"}"#), Ok(None));
        for bad in ["", "[]", "{}", r#"{"hook_event_name":"PreToolUse"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let long =
            serde_json::json!({ "hook_event_name": "UserPromptSubmit", "prompt": "\u{fc}".repeat(TEXT_MAX) });
        assert!(read(&long.to_string()).unwrap().unwrap().text.len() <= TEXT_MAX);
    }
}
