"""The server's gRPC face: `inference.GRPCInferenceService`, for clients of KServe and Triton. Needs the extra `grpc`.

`inference.proto` says what there is, `messages.py` makes classes of it, `convert.py` goes between those and arrays,
`service.py` answers the calls, `server.py` listens.
"""
