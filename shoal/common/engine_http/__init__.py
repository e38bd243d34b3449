"""The Docker Engine API's manners, shared by the agent's half and the manager's half.

Versions in paths, headers of every reply, error bodies, request bodies and filters, log frames,
JSON streams and taken-over connections. What a path means is its handler's business. Start with
`server.EngineServer` and `router.Router`; handlers get a `call.Call`.
"""
