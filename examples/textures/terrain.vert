#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
// One tile of ground: grid^2 squares of two triangles each, without a vertex buffer.
layout(push_constant) uniform Tile {
    vec2 corner;
    uint grid;
} tile;

layout(location = 0) out vec2 texel;
layout(location = 1) out vec3 place;
layout(location = 2) out vec3 normal;

const vec2 corners[6] = vec2[](vec2(0, 0), vec2(0, 1), vec2(1, 0), vec2(1, 0), vec2(0, 1), vec2(1, 1));

void main()
{
    uint square = gl_VertexIndex / 6;
    vec2 at = vec2(square % tile.grid, square / tile.grid) + corners[gl_VertexIndex % 6];
    texel = at / float(tile.grid);
    vec2 p = tile.corner + texel;
    const float step = 0.02;
    float height = ground(p);
    normal = normalize(vec3(height - ground(p + vec2(step, 0)), step, height - ground(p + vec2(0, step))));
    place = vec3(p.x, height, p.y);
    gl_Position = frame.view_projection * vec4(place, 1);
}
