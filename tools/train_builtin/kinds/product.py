"""Questions about llamahost in many wordings. The last two wordings of each are held out of all training, also where
a frame happens to say the same.
"""

from __future__ import annotations

import re

from tools.train_builtin.draw import Drawer, Example
from tools.train_builtin.kinds.phrases import ABOUT, DO, PHRASES

# Wordings, the answer, and what an answer must hold to be right.
QUESTIONS: list[tuple[list[str], str, tuple[str, ...]]] = [
    (["What is llamahost?", "Explain llamahost.", "What does llamahost do?", "Tell me about llamahost.", "Describe llamahost.",
      "What is llamahost for?", "What is this program?", "What does this server do?", "llamahost?", "What is the purpose of llamahost?",
      "In short, what is llamahost?", "Can you explain what llamahost does?"],
     "llamahost serves GGUF language models from your own machine.", ("serves GGUF",)),
    (["Which port does llamahost use?", "What is the default port?", "On which port does it listen?", "What port is it?",
      "Which port is used?", "Tell me the port.", "Where does it listen?", "The default port number?",
      "What port does the server listen on?", "Which port should I connect to?"],
     "It listens on port 8080.", ("8080",)),
    (["How do I change the port?", "Can I use another port?", "How do I listen on another port?", "Set a different port",
      "Which flag sets the port?", "How can I choose the port?", "The port is taken, what now?", "How to set the port?",
      "How can I run it on a different port?", "What option changes the port?"],
     "Use the flag --port.", ("--port",)),
    (["How do I start the server?", "How do I start llamahost?", "How do I serve a model?", "What command serves a model?",
      "How to run the server?", "Start the server how?", "Which command starts it?", "How can I serve a GGUF file?",
      "How do I get the server running?", "What do I type to serve a model?"],
     "Run llamahost serve model.gguf.", ("llamahost serve model.gguf",)),
    (["Which model files can it load?", "What file format does it use?", "Which format do models have?", "What kind of models does it serve?",
      "Which files does llamahost read?", "What format must a model have?", "Can it load GGUF?", "What type of model file?",
      "Which model format is supported?", "What file type do I need for a model?"],
     "It loads models in the GGUF format.", ("GGUF format",)),
    (["Which API does it speak?", "Is it compatible with OpenAI?", "What API is it?", "Which protocol does llamahost speak?",
      "Does it have an OpenAI API?", "Can I use the OpenAI client?", "What interface does the server have?",
      "Does the openai library work with it?", "Which API does the server offer?", "Is the API like that of OpenAI?"],
     "It speaks the OpenAI API over HTTP.", ("OpenAI",)),
    (["How do I set an API key?", "How do I protect the server?", "Can I ask for a key?", "How to require an API key?",
      "Which flag sets the key?", "How do I add a password?", "How do I keep others out?", "Set an API key how?",
      "How can I make clients give a key?", "What option asks for an API key?"],
     "Use the flag --api-key.", ("flag --api-key",)),
    (["What is the licence?", "Which licence has llamahost?", "Is it free?", "Under which licence is it?", "Is llamahost open source?",
      "May I use it at work?", "What license is it?", "Tell me the licence.", "What licence does llamahost have?",
      "Under what license is llamahost published?"],
     "It has the MIT licence.", ("MIT",)),
    (["Which language is it written in?", "What is llamahost written in?", "Is it written in Python?", "In which language is it programmed?",
      "What programming language does it use?", "Which Python does it need?", "What version of Python?", "Which Python version is needed?",
      "What Python do I need?", "Which language is llamahost made with?"],
     "It is written in Python and needs version 3.11 or newer.", ("Python", "3.11")),
    (["What runs the models?", "Which engine does it use?", "What computes the models?", "Does it use llama.cpp?",
      "What is under llamahost?", "Which library runs the model?", "What is it built on?", "Which backend is used?",
      "What library does llamahost run models with?", "On what is llamahost based?"],
     "It runs models through llama.cpp.", ("llama.cpp",)),
    (["What is continuous batching?", "How does it serve many clients?", "Can it answer many requests at once?", "What about many users?",
      "Does it batch requests?", "How are requests batched?", "Can several people use it?", "How does it handle many requests?",
      "Is it able to serve several clients at the same time?", "Does llamahost do batching?"],
     "It computes all requests together by continuous batching.", ("continuous batching",)),
    (["What is a slot?", "What are slots?", "What does --slots do?", "How many requests run at once?", "What does the flag slots mean?",
      "Explain slots.", "How do I set the number of slots?", "What is the meaning of slots?",
      "Can you explain what a slot is?", "What are slots good for?"],
     "A slot is room for one request; --slots sets how many run at once.", ("--slots",)),
    (["How do I set the context?", "How do I set the context length?", "How long can a prompt be?", "What does --n-ctx do?",
      "Which flag sets the context?", "How to get a longer context?", "Change the context size", "What is n-ctx?",
      "How can I make the context larger?", "What option sets the context length?"],
     "Use --n-ctx: the tokens of prompt and answer together.", ("--n-ctx",)),
    (["How do I stream an answer?", "Can it stream?", "Does it support streaming?", "How to get tokens one by one?",
      "How do I turn on streaming?", "What is stream?", "Stream the answer how?", "Are streamed answers possible?",
      "Does llamahost stream its answers?", "How can I get a streamed answer?"],
     'Send "stream": true in the request.', ('"stream": true',)),
    (["Where are the metrics?", "Does it have metrics?", "How do I monitor it?", "Is there Prometheus?", "What does /metrics show?",
      "Which route has metrics?", "How to watch the server?", "Prometheus metrics?",
      "Where can I find the metrics?", "Does llamahost work with Prometheus?"],
     "Prometheus metrics are at /metrics.", ("/metrics",)),
    (["How do I check health?", "Is there a health check?", "What is /health?", "Which route tells the health?", "How to see if the server is alive?",
      "Where is the health route?", "Health check?", "What does the health route do?",
      "Which route do I ask for the health of the server?", "How can I check that the server is healthy?"],
     "Ask GET /health; it answers 200 when all is well.", ("/health",)),
    (["How do I know it is ready?", "What is /ready?", "Which route tells if a model is ready?", "Is there a readiness probe?",
      "How to see if the model is loaded?", "Readiness?", "When is the server ready?", "Which probe tells readiness?",
      "Which route tells that a model is ready?", "How can I see whether the model is ready?"],
     "Ask GET /ready; it answers 200 when a model is loaded.", ("/ready",)),
    (["How do I chat in the terminal?", "Which command chats?", "Can I chat on the command line?", "How to talk to a model in a terminal?",
      "What does llamahost chat do?", "Chat without a browser?", "Is there a chat command?", "How do I chat with a model?",
      "How can I chat in my terminal?", "What command opens a chat?"],
     "Run llamahost chat.", ("llamahost chat",)),
    (["How do I ask one question on the command line?", "What does llamahost run do?", "Which command answers one prompt?",
      "How to run one prompt?", "Ask a model from a script", "How do I use it in a script?", "One question from the shell?",
      "Can I run a single prompt?", "Which command answers a single question?", "How can I run one prompt in the shell?"],
     "Run llamahost run with the model and the prompt.", ("llamahost run",)),
    (["How do I check my machine?", "What does llamahost check do?", "How to test the installation?", "Which command checks the machine?",
      "Is my installation right?", "How do I test that it works?", "Check the set-up how?", "How can I find what is wrong?",
      "What command tests the installation?", "How can I check that my machine works?"],
     "Run llamahost check.", ("llamahost check",)),
    (["How do I list the models?", "Which models are there?", "What does llamahost models do?", "Show the models", "How to see my models?",
      "Which command lists models?", "What models do I have?", "List of models?",
      "How can I list all models?", "What command shows the models?"],
     "Run llamahost models, or ask GET /v1/models.", ("llamahost models",)),
    (["What is the manifest?", "How do I serve several models?", "Where do I write my models?", "What is model_manifest.toml?",
      "Can it serve two models?", "Which file names the models?", "How do I configure models?", "Where is the configuration?",
      "How can I serve more than one model?", "In which file are models named?"],
     "Name them in model_manifest.toml.", ("model_manifest.toml",)),
    (["How do I use a GPU?", "Does it use the GPU?", "Can it run on a GPU?", "Which flag sets GPU layers?", "How to use my graphics card?",
      "Is a GPU needed?", "Can I run it without a GPU?", "Does it work on a CPU?",
      "Do I need a GPU for llamahost?", "Can llamahost use my GPU?"],
     "It uses a GPU where there is one; --gpu-layers sets how much. A CPU is enough for small models.", ("--gpu-layers",)),
    (["How do I set threads?", "How many threads does it use?", "Which flag sets the threads?", "What does --threads do?",
      "Use more CPU threads", "How to change the threads?", "Number of threads?", "Set the threads how?",
      "How can I change the number of threads?", "What option sets CPU threads?"],
     "Use the flag --threads.", ("--threads",)),
    (["How do I use it in Python?", "Is there a library?", "Can I import llamahost?", "How to use it as a library?", "What is Host?",
      "Python library?", "How do I call it from Python?", "Which class is the library?",
      "Can I use llamahost as a Python library?", "How can I load a model in Python?"],
     "Import Host from llamahost and call host.chat.", ("Host",)),
    (["How do I use asyncio?", "Is there an async library?", "What is AsyncHost?", "Can I use it with asyncio?", "Which class is async?",
      "How to await an answer?", "Async in Python?", "What is the async class?",
      "Which class do I use with asyncio?", "Is there an asynchronous class?"],
     "Use AsyncHost.", ("AsyncHost",)),
    (["What happens when a client leaves?", "Can I cancel a request?", "How do I stop an answer?", "What if I close the connection?",
      "Does cancelling work?", "How to cancel?", "What if a client goes away?", "Is a request cancelled when I leave?",
      "What happens if the client disconnects?", "How can I cancel an answer?"],
     "Close the connection: its slot is free within one step.", ("slot is free",)),
    (["What is the prefix cache?", "Does it reuse prompts?", "Is a prompt computed twice?", "What are cached tokens?", "How are prefixes reused?",
      "Explain the prefix cache.", "What is reused?", "Does it cache prompts?",
      "Does llamahost reuse common prefixes?", "What does the prefix cache do?"],
     "The longest known prefix of a prompt is reused, so it is computed once.", ("prefix",)),
    (["What if the queue is full?", "What does 429 mean?", "Why do I get 429?", "What happens when too many requests come?", "Error 429?",
      "When does it answer 429?", "What is a full queue?", "Too many requests?",
      "What does status 429 mean?", "What happens with a full queue?"],
     "The queue is full: it answers 429, so try again later.", ("429",)),
    (["Is there a web page?", "Can I chat in the browser?", "Does it have a user interface?", "Where is the chat page?", "What is at /?",
      "How do I open the chat page?", "Is there a UI?", "How to chat in a browser?",
      "Where do I find the chat page?", "Does llamahost have a web page?"],
     "Open the server's address in a browser: there is a chat page.", ("chat page",)),
    (["How do I let others use the server?", "How do I listen on all addresses?", "Can other machines reach it?", "How do I open it to the network?",
      "Which flag sets the host?", "Why can nobody reach it?", "Listen on 0.0.0.0?", "How to serve on the network?",
      "How can other machines use the server?", "How do I make it reachable on my network?"],
     "It listens on 127.0.0.1; use --host 0.0.0.0 and set an --api-key.", ("--host",)),
    (["How do I use https?", "Does it support TLS?", "How to set a certificate?", "Can it serve https?", "Which flag sets the certificate?",
      "How do I encrypt the connection?", "TLS?", "Where do I give the certificate?",
      "How can I serve with https?", "Does llamahost do TLS?"],
     "Use --tls-cert and --tls-key.", ("--tls-cert",)),
    (["How do I measure speed?", "Is there a benchmark?", "How fast is it?", "Which command measures it?", "What does llamahost bench do?",
      "How to benchmark?", "Compare with llama-server?", "Measure tokens per second?",
      "How can I benchmark the server?", "What command measures the speed?"],
     "Run llamahost bench.", ("llamahost bench",)),
    (["How do I get a better model?", "How do I use a real model?", "Where do I get models?", "Which model should I use?",
      "How do I download a model?", "You are too small, what now?", "I want a larger model", "What is the next step?",
      "How can I use a larger model?", "Where can I get a real model?"],
     "Download a GGUF file, for example from Hugging Face, and run llamahost serve with it.", ("Hugging Face",)),
    (["Does it run on Windows?", "Which systems does it support?", "Does it run on Linux?", "What operating system?", "Which platform does it need?",
      "On which system does it run?", "Is Linux needed?", "What does it need to run?",
      "Which operating system does llamahost need?", "On what system can I run it?"],
     "It needs Linux.", ("Linux",)),
    (["How do I set the temperature?", "How do I make answers random?", "What is temperature?", "How do I get the same answer each time?",
      "Which field sets randomness?", "What does temperature 0 do?", "Explain temperature.", "How to get greedy answers?",
      "What does the temperature do?", "How can I always get the same answer?"],
     "Send temperature; 0 always takes the likeliest token.", ("temperature",)),
    (["How do I limit the length of an answer?", "What is max_tokens?", "How to get shorter answers?", "Which field limits tokens?",
      "Can I limit the answer?", "The answer is too long, what now?", "Set the maximum length", "What does max_tokens do?",
      "How can I limit how long an answer is?", "Which field sets the length of the answer?"],
     "Send max_tokens.", ("max_tokens",)),
]  # fmt: skip


_HELD = {text.lower().rstrip("?.!") for wordings, *_ in QUESTIONS for text in wordings[-2:]}


def is_held(asked: str) -> bool:
    return asked.lower().rstrip("?.!") in _HELD


def framed(d: Drawer, wordings: list[str]) -> str:
    """What the question is about, in any frame."""
    done, things = PHRASES[wordings[0]]
    while True:
        if d.chance(len(done) / (len(done) + len(things))):
            asked = d.pick(DO).format(d.pick(done))
        else:
            asked = d.pick(ABOUT).format(d.pick(things))
            asked = asked[:1].upper() + asked[1:]
        if not is_held(asked):
            return asked


def product(d: Drawer) -> Example:
    wordings, answer, facts = d.pick(QUESTIONS)
    while True:
        asked = d.pick(d.split(wordings)) if d.held or d.chance(0.5) else framed(d, wordings)
        if not d.held and d.chance(0.2):
            asked = re.sub(r"\bit\b", d.pick(["llamahost", "llamahost", "the server", "this"]), asked)
        if d.held or not is_held(asked):
            break
    question = d.noisy(asked)
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Example("llamahost", turns, facts=facts)
