"""The engine half of the Docker Engine API, and the pipe to the cluster half.

`app.build` makes the routes; `shoal.common.engine_http` has the manners. Handlers are thin:
they read the request, ask the engine or a store, and word the answer.
"""
