# docker build -t permlab . && docker run --rm permlab
FROM python:3.12-slim
WORKDIR /permlab
# torch first and alone: with it installed, nothing below pulls another build of it.
ARG TORCH="torch==2.13.0"
RUN pip install --no-cache-dir ${TORCH}
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY permlab permlab
COPY conf conf
RUN pip install --no-cache-dir -c constraints.txt .
ENV WANDB_MODE=disabled
CMD ["permlab"]
