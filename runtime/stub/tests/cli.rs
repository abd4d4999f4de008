//! The executable without a model.

use std::process::{Command, Output};

fn latent_run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stub"));
    command.args(arguments).env_clear().output().expect("it starts")
}

fn error_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn without_a_model_it_says_so() {
    for arguments in [&[][..], &["run", "--prompt", "x"], &["inspect"], &["verify", "--json"]] {
        let output = latent_run(arguments);
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(2), "{error}");
        let said = "E0620\n\n  x this executable carries no model\n  help: ";
        assert!(error.starts_with(said), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn usage_is_status_2() {
    for (arguments, found) in [
        (&["run"][..], "--prompt <TEXT>"),
        (&["fly"], "'fly'"),
        (&["bench", "--threads", "0"], "'0'"),
        (&["verify", "--tolerance=-1"], "expected at least 0"),
        (&["logits", "--tokens"], "--tokens <IDS.json>"),
    ] {
        let output = latent_run(arguments);
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.starts_with("E0622\n") && error.contains(found), "{error}");
        assert!(error.contains("\n  help: --help lists") && !error.contains("error: "), "{error}");
        assert!(output.stdout.is_empty());
    }
    let help = latent_run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).expect("UTF-8");
    for command in ["run", "chat", "bench", "logits", "verify", "inspect"] {
        assert!(text.contains(&format!("\n  {command}")), "{command} is not in {text}");
    }
}

#[test]
fn a_file_that_is_no_artifact_is_the_inputs_fault() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = latent_run(&["--artifact", own, "inspect"]);
    assert_eq!(output.status.code(), Some(1));
    let said = format!("E0401\n\n  x {own}: not an artifact");
    assert!(error_of(&output).starts_with(&said), "{}", error_of(&output));
    let output = latent_run(&["inspect", "--artifact", "/nowhere/model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error_of(&output).starts_with("E0501\n\n  x cannot open `/nowhere/model`"));
}
