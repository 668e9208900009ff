// Render the TEMPLATE of a Modelfile as Ollama does: by Go's text/template, with the messages.
//
// Standard input is JSON: {"template": "...", "conversations": [[{"Role": "user", "Content": "..."}]]}; standard output a
// JSON list of what each conversation is written as.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	var asked struct {
		Template      string
		Conversations [][]message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	parsed := template.Must(template.New("Modelfile").Parse(asked.Template))
	written := []string{}
	for _, messages := range asked.Conversations {
		var text strings.Builder
		if err := parsed.Execute(&text, map[string]any{"Messages": messages}); err != nil {
			panic(err)
		}
		written = append(written, text.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(written); err != nil {
		panic(err)
	}
}
